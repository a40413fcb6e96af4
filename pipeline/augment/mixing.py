"""Mixup and CutMix: partner, ratio and cut of every sample, drawn from our own generator.

Shapes: B samples, H and W input size.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .generator import below, uniforms


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How B inputs are mixed with others of the same view.

    Attributes:
        rows: (B,) int64, the store row of the partner; it may be the sample itself.
        ratios: (B,) float32, the share of the sample's own input and label; the partner has the rest.
        cuts: (B, 4) float32: left, top, right and bottom of what CutMix takes from the partner, in fractions of the
            input; zeros where the inputs are blended (mixup).
    """

    rows: np.ndarray
    ratios: np.ndarray
    cuts: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """As a store keeps them: (B, width) by the names of its arrays."""
        return {"mix_rows": self.rows[:, None], "mix_ratios": self.ratios[:, None], "mix_cuts": self.cuts}


def draw_mixing(mixup: float | None, cutmix: float | None, keys: np.ndarray, num_rows: int, size: int) -> Mixing:
    """Partner, ratio and cut of B samples.

    Mixup: Hongyi Zhang et al., "mixup: Beyond Empirical Risk Minimization", https://arxiv.org/abs/1710.09412,
    section 2. CutMix: Sangdoo Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features", https://arxiv.org/abs/1905.04899, section 3.1; a cut that passes the border is clipped, and
    the ratio is that of the area that is left. Where both are wanted each sample takes either with probability 1/2.

    Numbers 0 to 3 of each sequence give partner, kind and centre of the cut, the following ones the ratio.

    Args:
        mixup: alpha of Beta(alpha, alpha); None for no mixup.
        cutmix: likewise.
        keys: (B,) uint64, ``ViewKeys.mixing``.
        num_rows: N, rows of the store.
        size: of the inputs, in pixels; cuts are whole pixels of them.
    """
    first = uniforms(keys, 4)
    cuts = np.zeros((len(keys), 4), np.float32)
    ratios = np.empty(len(keys), np.float32)
    for i, (_, kind, across, down) in enumerate(first.tolist()):
        use_mixup = mixup is not None and (cutmix is None or kind < 0.5)
        alpha = mixup if use_mixup else cutmix
        ratios[i] = beta(keys[i : i + 1], float(alpha or 0), first=4)
        if not use_mixup:
            side = int(size * math.sqrt(1 - float(ratios[i])))
            left, top = int(across * size) - side // 2, int(down * size) - side // 2
            window = np.clip([left, top, left + side, top + side], 0, size)
            cuts[i] = window / size
            ratios[i] = 1 - (window[2] - window[0]) * (window[3] - window[1]) / size**2
    return Mixing(rows=below(first[:, 0], num_rows), ratios=ratios, cuts=cuts)


def beta(key: np.ndarray, alpha: float, first: int) -> float:
    """One number of Beta(alpha, alpha), exactly distributed, from a sequence's numbers from ``first`` on.

    M. D. Jöhnk, "Erzeugung von betaverteilten und gammaverteilten Zufallszahlen", Metrika 8, 1964,
    https://doi.org/10.1007/BF02613706: of u, v uniform, ``x = u^(1/alpha)`` and ``y = v^(1/alpha)`` give
    ``x / (x + y)`` where ``x + y`` is at most 1; else the next two are tried.

    Args:
        key: (1,) uint64.
        alpha: above 0; at 4, the largest in use, one try in 70 succeeds.
        first: place of the first number.
    """
    while True:
        u, v = uniforms(key, 2, first)[0].tolist()
        x, y = u ** (1 / alpha), v ** (1 / alpha)
        if 0 < x + y <= 1:
            return x / (x + y)
        first += 2


def mix(inputs: Tensor, partners: Tensor, mixing: Mixing) -> Tensor:
    """The mixed inputs: (B, channels, H, W).

    Args:
        inputs: (B, channels, H, W) floating point, normalised.
        partners: of the rows that ``mixing`` names, in the same view.
        mixing: how.
    """
    height, width = inputs.shape[-2:]
    cuts = torch.from_numpy(mixing.cuts).to(torch.float64)
    left, top, right, bottom = (cuts * torch.tensor([width, height, width, height])).round().T[:, :, None, None, None]
    down, across = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    cut = (across >= left) & (across < right) & (down >= top) & (down < bottom)
    ratios = torch.from_numpy(mixing.ratios).to(inputs.dtype).view(-1, 1, 1, 1)
    blended = inputs * ratios + partners * (1 - ratios)
    is_cut = cut.flatten(1).any(1).view(-1, 1, 1, 1)
    return torch.where(is_cut, torch.where(cut, partners, inputs), blended)
