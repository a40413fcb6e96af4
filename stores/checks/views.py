"""Whether the numbers of augmented views can be right: crop boxes, flips, and what inputs were mixed with.

Shapes: n rows of a chunk.
"""

from collections.abc import Mapping

import numpy as np

from .content import Faults


def add_view_faults(faults: Faults, values: Mapping[str, np.ndarray], start: int, num_samples: int) -> None:
    """Note the rows whose geometry or mixing cannot be.

    Args:
        faults: takes them.
        values: the arrays of some rows by name, any of those that augmented views have.
        start: the row number of the first.
        num_samples: N, rows of the store.
    """
    for name in ("boxes", "mix_cuts"):
        if name in values:
            left, top, right, bottom = values[name].T  # a cut may be empty, a crop has a pixel at least
            in_order = (left < right) & (top < bottom) if name == "boxes" else (left <= right) & (top <= bottom)
            faults.add(name, "a box is not one", ~(np.isfinite(values[name]).all(1) & in_order), start)
    if "flips" in values:
        faults.add("flips", "a flip is neither 0 nor 1", values["flips"][:, 0] > 1, start)
    if "mix_rows" in values:
        faults.add("mix_rows", "a partner is no row of the store", values["mix_rows"][:, 0] >= num_samples, start)
    if "mix_ratios" in values:
        ratios = values["mix_ratios"][:, 0]
        faults.add("mix_ratios", "a share is not from 0 to 1", ~((ratios >= 0) & (ratios <= 1)), start)  # NaN too
