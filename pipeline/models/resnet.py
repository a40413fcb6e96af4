"""Residual networks for small images.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016 (sections 4.1 and 4.2),
https://arxiv.org/abs/1512.03385. The "x4" networks, widened to 64, 128 and 256 channels, are the ones the
distillation literature compares on (Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR
2020, https://arxiv.org/abs/1910.10699).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .layers import GlobalAveragePool, conv1x1, conv3x3, init_weights
from .registry import register_model


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, in, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            # The projection ("option B"), not zero padding: what the published x4 counts include.
            self.shortcut = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return torch.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, at a quarter of the channels, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        inner = out_channels // 4
        self.conv1 = conv1x1(in_channels, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """Stages of blocks after a 3x3 stem: (B, in_channels, H, W) -> (B, num_classes).

    Args:
        block: the kind of block.
        blocks: their number in each stage; every stage but the first halves height and width.
        widths: the channels of the stem and of the stages.
        num_classes: the length of a row of logits.
        in_channels: the channels of an image.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        widths: Sequence[int],
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.conv1 = conv3x3(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        layers: list[nn.Module] = []
        for stage, (number, width) in enumerate(zip(blocks, widths[1:], strict=True)):
            for position in range(number):
                stride = 2 if stage > 0 and position == 0 else 1
                layers.append(block(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*layers)
        self.pool = GlobalAveragePool()
        self.fc = nn.Linear(channels, num_classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        """Raw logits (B, num_classes)."""
        features = self.blocks(torch.relu(self.bn1(self.conv1(images))))
        return self.fc(self.pool(features))


@register_model
def resnet8(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Depth 8, widths 16, 16, 32, 64: 83,892 parameters at 100 classes and 3 channels."""
    return CifarResNet(BasicBlock, (1, 1, 1), (16, 16, 32, 64), num_classes, in_channels)


@register_model
def resnet8x4(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Depth 8, widths 32, 64, 128, 256: 1,233,540 parameters at 100 classes and 3 channels."""
    return CifarResNet(BasicBlock, (1, 1, 1), (32, 64, 128, 256), num_classes, in_channels)


@register_model
def resnet32x4(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Depth 32, widths 32, 64, 128, 256: 7,433,860 parameters at 100 classes and 3 channels."""
    return CifarResNet(BasicBlock, (5, 5, 5), (32, 64, 128, 256), num_classes, in_channels)


@register_model
def resnet20(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Depth 20, widths 16, 16, 32, 64: 278,324 parameters at 100 classes and 3 channels.

    The shortcuts that change shape are projections, as in the distillation literature; the paper's own
    CIFAR networks pad with zeros there, which has 2,752 parameters fewer.
    """
    return CifarResNet(BasicBlock, (3, 3, 3), (16, 16, 32, 64), num_classes, in_channels)


@register_model
def resnet50(num_classes: int, in_channels: int = 3) -> nn.Module:
    """ResNet-50 with a 3x3 stem that keeps the size: 23,705,252 parameters at 100 classes and 3 channels."""
    return CifarResNet(Bottleneck, (3, 4, 6, 3), (64, 256, 512, 1024, 2048), num_classes, in_channels)
