"""Layers the small networks share. Shapes: B images, C channels, H and W the height and width."""

import math

from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size at stride 1. No bias: batch norms carry it."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, groups=groups, bias=False)


class GlobalAveragePool(nn.Module):
    """(B, C, H, W) -> (B, C), for every H and W: what lets one network take 8, 28 and 32 pixels."""

    def forward(self, features: Tensor) -> Tensor:
        """Average over the positions."""
        return features.mean(dim=(2, 3))


def init_weights(network: nn.Module) -> None:
    """Draw the initial weights in place (He et al. 2015, https://arxiv.org/abs/1502.01852, fan-out, ReLU).

    Convolutions are normal with variance 2 / fan_out, batch norms the identity, and the classifier's
    weights normal with variance 1 / fan_in (no ReLU follows it) and zero bias.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            # torch's kaiming_normal_ ignores groups, which makes depthwise weights too small by sqrt(C).
            fan_out = layer.out_channels * math.prod(layer.kernel_size) // layer.groups
            nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=math.sqrt(1 / layer.in_features))
            nn.init.zeros_(layer.bias)
