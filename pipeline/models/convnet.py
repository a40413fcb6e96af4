"""A tiny convolutional network, for demonstrations and tests."""

from torch import Tensor, nn

from .layers import GlobalAveragePool, conv3x3, init_weights
from .registry import register_model

_WIDTHS = (16, 32, 64)


class TinyConvNet(nn.Module):
    """Three stages of strided conv, batch norm and ReLU: (B, in_channels, H, W) -> (B, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for width in _WIDTHS:
            layers += [conv3x3(channels, width, stride=2), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.pool = GlobalAveragePool()
        self.fc = nn.Linear(channels, num_classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        """Raw logits (B, num_classes)."""
        return self.fc(self.pool(self.features(images)))


@register_model
def convnet_tiny(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Widths 16, 32, 64; no paper: 30,196 parameters at 100 classes and 3 channels, 24,058 at 10 and 1."""
    return TinyConvNet(num_classes, in_channels)
