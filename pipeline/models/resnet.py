"""Residual networks for small images.

He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016 (section 4.2, CIFAR-10),
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


class CifarResNet(nn.Module):
    """Three stages of basic blocks after a 3x3 stem: (B, in_channels, H, W) -> (B, num_classes).

    Args:
        depth: 6n + 2: the stem, three stages of n blocks of two convolutions, and the classifier.
        widths: the channels of the stem and of the three stages.
        num_classes: the length of a row of logits.
        in_channels: the channels of an image.
    """

    def __init__(self, depth: int, widths: Sequence[int], num_classes: int, in_channels: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        channels = widths[0]
        self.conv1 = conv3x3(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        stages: list[nn.Module] = []
        for stage, width in enumerate(widths[1:]):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(BasicBlock(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*stages)
        self.pool = GlobalAveragePool()
        self.fc = nn.Linear(channels, num_classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        """Raw logits (B, num_classes)."""
        features = self.blocks(torch.relu(self.bn1(self.conv1(images))))
        return self.fc(self.pool(features))


@register_model
def resnet8x4(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Depth 8, widths 32, 64, 128, 256: 1,233,540 parameters at 100 classes and 3 channels."""
    return CifarResNet(8, (32, 64, 128, 256), num_classes, in_channels)


@register_model
def resnet32x4(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Depth 32, widths 32, 64, 128, 256: 7,433,860 parameters at 100 classes and 3 channels."""
    return CifarResNet(32, (32, 64, 128, 256), num_classes, in_channels)


@register_model
def resnet20(num_classes: int, in_channels: int = 3) -> nn.Module:
    """Depth 20, widths 16, 16, 32, 64: 278,324 parameters at 100 classes and 3 channels.

    The shortcuts that change shape are projections, as in the distillation literature; the paper's own
    CIFAR networks pad with zeros there, which has 2,752 parameters fewer.
    """
    return CifarResNet(20, (16, 16, 32, 64), num_classes, in_channels)
