"""Wide residual networks for small images.

Zagoruyko, Komodakis: Wide Residual Networks, BMVC 2016, https://arxiv.org/abs/1605.07146. The blocks are
pre-activated (batch norm and ReLU before each convolution) and a last batch norm precedes the pooling.
"""

import torch
from torch import Tensor, nn

from .layers import GlobalAveragePool, conv1x1, conv3x3, init_weights
from .registry import register_model


class PreActivationBlock(nn.Module):
    """BN-ReLU-conv twice and a shortcut: (B, in, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.projection: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.projection = conv1x1(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        activated = torch.relu(self.bn1(x))
        out = self.conv2(torch.relu(self.bn2(self.conv1(activated))))
        # Where the shape changes, the projection reads the activated input; elsewhere the sum is untouched.
        return out + (x if self.projection is None else self.projection(activated))


class WideResNet(nn.Module):
    """Three stages of pre-activated blocks: (B, in_channels, H, W) -> (B, num_classes).

    Args:
        depth: 6n + 4: n blocks of two convolutions in each of three stages, the stem and the projections.
        widen: the factor k on the widths 16, 32 and 64.
        num_classes: the length of a row of logits.
        in_channels: the channels of an image.
    """

    def __init__(self, depth: int, widen: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        channels = 16
        self.conv1 = conv3x3(in_channels, channels)
        stages: list[nn.Module] = []
        for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(PreActivationBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(channels)
        self.pool = GlobalAveragePool()
        self.fc = nn.Linear(channels, num_classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        """Raw logits (B, num_classes)."""
        features = torch.relu(self.bn(self.blocks(self.conv1(images))))
        return self.fc(self.pool(features))


@register_model
def wrn_40_2(num_classes: int, in_channels: int = 3) -> nn.Module:
    """WRN-40-2: 2,255,156 parameters at 100 classes and 3 channels."""
    return WideResNet(40, 2, num_classes, in_channels)


@register_model
def wrn_16_2(num_classes: int, in_channels: int = 3) -> nn.Module:
    """WRN-16-2: 703,284 parameters at 100 classes and 3 channels."""
    return WideResNet(16, 2, num_classes, in_channels)
