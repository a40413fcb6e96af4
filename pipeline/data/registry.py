"""The data specs: one registry, and what every spec can be asked for (a long tail)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ...stores.errors import UsageError, unknown
from ..specs import Spec
from .samples import LongTail, Samples

_SOURCES: dict[str, Callable[[Spec], Samples]] = {}


def data_source(scheme: str) -> Callable[[Callable[[Spec], Samples]], Callable[[Spec], Samples]]:
    """Register a function that loads the data sets of one scheme."""

    def register(function: Callable[[Spec], Samples]) -> Callable[[Spec], Samples]:
        _SOURCES[scheme] = function
        return function

    return register


def load_data(text: str) -> Samples:
    """Load the data set that a spec names; ``imbalance=``, ``max_per_class=`` and ``seed=`` make it long-tailed.

    Raises:
        UsageError: unknown scheme or option (the nearest is suggested), missing or empty data.
    """
    spec = Spec.parse(text)
    if spec.name not in _SOURCES:
        if Path(text).is_dir():
            raise UsageError(f"'{text}' is a folder. Write folder:{text}.")
        raise unknown("data scheme", spec.name, _SOURCES)
    tail_spec, source_spec = spec.take("imbalance", "max_per_class", "seed")
    samples = dataclasses.replace(_SOURCES[spec.name](source_spec), spec=text)
    if not tail_spec.options:
        return samples
    tail = tail_spec.into(LongTail)
    return samples.select(tail.select(samples.labels, samples.num_classes), tail)
