"""MobileNetV2 for small images.

Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018,
https://arxiv.org/abs/1801.04381. As the distillation literature runs it at 32 pixels: width 0.5, the first
24-channel stage at stride 1 (so the whole network divides the size by 16, not by 32), and the 1x1
expansion kept in the first bottleneck too, though its factor is 1; the published count includes it.
"""

from torch import Tensor, nn

from .layers import GlobalAveragePool, conv1x1, conv3x3, init_weights
from .registry import register_model

# (expansion, channels at width 1, blocks, stride of the first block), one row per stage
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project without activation: (B, in, H, W) -> (B, out, H/s, W/s)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.layers = nn.Sequential(
            conv1x1(in_channels, inner),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            conv3x3(inner, inner, stride, groups=inner),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            conv1x1(inner, out_channels),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        out = self.layers(x)
        return x + out if self.has_shortcut else out


class MobileNetV2(nn.Module):
    """A strided stem, inverted residuals and a wide head: (B, in_channels, H, W) -> (B, num_classes).

    Args:
        width: the factor on every number of channels but the head's.
        num_classes: the length of a row of logits.
        in_channels: the channels of an image.
    """

    def __init__(self, width: float, num_classes: int, in_channels: int) -> None:
        super().__init__()
        channels, head = int(32 * width), int(1280 * max(1.0, width))
        self.stem = nn.Sequential(conv3x3(in_channels, channels, 2), nn.BatchNorm2d(channels), nn.ReLU6())
        stages: list[nn.Module] = []
        for expansion, base, blocks, first_stride in _STAGES:
            out_channels = int(base * width)
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                stages.append(InvertedResidual(channels, out_channels, stride, expansion))
                channels = out_channels
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Sequential(conv1x1(channels, head), nn.BatchNorm2d(head), nn.ReLU6())
        self.pool = GlobalAveragePool()
        self.fc = nn.Linear(head, num_classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        """Raw logits (B, num_classes)."""
        return self.fc(self.pool(self.head(self.blocks(self.stem(images)))))


@register_model
def mobilenetv2(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Width 0.5, expansion 6: 812,836 parameters at 100 classes and 3 channels."""
    return MobileNetV2(0.5, num_classes, in_channels)
