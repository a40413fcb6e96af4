"""ShuffleNet (version 1) for small images.

Zhang, Zhou, Lin, Sun: ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices,
CVPR 2018, https://arxiv.org/abs/1707.01083. As the distillation literature runs it at 32 pixels: 3 groups,
stages of 240, 480 and 960 channels, and a 1x1 stem in place of the strided stem and max pooling.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import GlobalAveragePool, conv1x1, conv3x3, init_weights
from .registry import register_model

_STEM_CHANNELS = 24
# (channels, units), one row per stage; the first unit of a stage has stride 2
_STAGES = ((240, 4), (480, 8), (960, 4))


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of the groups, so that the next grouped convolution sees all of them."""
    batch, channels, height, width = x.shape
    grouped = x.reshape(batch, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).reshape(batch, channels, height, width)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1: (B, in, H, W) -> (B, out, H/stride, W/stride).

    At stride 2 the averaged input is concatenated, so the branch itself makes ``out - in`` channels; a
    quarter of what the branch makes is its bottleneck.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int) -> None:
        super().__init__()
        branch = out_channels - in_channels if stride == 2 else out_channels
        inner = branch // 4
        # The paper does not group the very first pointwise convolution: its input has too few channels.
        self.groups = 1 if in_channels == _STEM_CHANNELS else groups
        self.stride = stride
        self.conv1 = conv1x1(in_channels, inner, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = conv3x3(inner, inner, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = conv1x1(inner, branch, groups=groups)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, x: Tensor) -> Tensor:
        """The unit's output."""
        out = torch.relu(self.bn1(self.conv1(x)))
        # No ReLU after the depthwise convolution: section 3.2 of the paper, after Xception.
        out = self.bn2(self.conv2(shuffle_channels(out, self.groups)))
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            averaged = functional.avg_pool2d(x, kernel_size=3, stride=2, padding=1)
            return torch.relu(torch.cat((averaged, out), dim=1))
        return torch.relu(x + out)


class ShuffleNetV1(nn.Module):
    """A 1x1 stem and three stages of shuffle units: (B, in_channels, H, W) -> (B, num_classes).

    Args:
        groups: the groups of the pointwise convolutions.
        num_classes: the length of a row of logits.
        in_channels: the channels of an image.
    """

    def __init__(self, groups: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        channels = _STEM_CHANNELS
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        units: list[nn.Module] = []
        for width, count in _STAGES:
            for unit in range(count):
                units.append(ShuffleUnit(channels, width, 2 if unit == 0 else 1, groups))
                channels = width
        self.units = nn.Sequential(*units)
        self.pool = GlobalAveragePool()
        self.fc = nn.Linear(channels, num_classes)
        init_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        """Raw logits (B, num_classes)."""
        features = self.units(torch.relu(self.bn1(self.conv1(images))))
        return self.fc(self.pool(features))


@register_model
def shufflenetv1(num_classes: int, in_channels: int = 3) -> nn.Module:
    """3 groups: 949,258 parameters at 100 classes and 3 channels."""
    return ShuffleNetV1(3, num_classes, in_channels)
