"""The data specs: one registry, and what every spec can be asked for (a long tail, other classes)."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...stores.errors import UsageError, unknown
from ...stores.reshape.class_map import ClassMap
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
    """Load the data set that a spec names.

    ``imbalance=``, ``max_per_class=`` and ``seed=`` make it long-tailed. ``class_map=FILE`` then gives it the classes
    of a class map (:class:`~kdpipe.stores.reshape.class_map.ClassMap`), and leaves out samples of classes not in it.

    Raises:
        UsageError: unknown scheme or option (the nearest is suggested), missing or empty data, or a class map that
            cannot be read.
    """
    spec = Spec.parse(text)
    if spec.name not in _SOURCES:
        if Path(text).is_dir():
            raise UsageError(f"'{text}' is a folder. Write folder:{text}.")
        raise unknown("data scheme", spec.name, _SOURCES)
    map_spec, spec = spec.take("class_map")
    tail_spec, source_spec = spec.take("imbalance", "max_per_class", "seed")
    samples = dataclasses.replace(_SOURCES[spec.name](source_spec), spec=text)
    if tail_spec.options:
        tail = tail_spec.into(LongTail)
        samples = samples.select(tail.select(samples.labels, samples.num_classes), tail)
    if map_spec.options:
        samples = _mapped(samples, Path(map_spec.options["class_map"]))
    return samples


def _mapped(samples: Samples, path: Path) -> Samples:
    """The samples whose class is in a class map, with its classes."""
    class_map = ClassMap.read(path, samples.class_names)
    labels = class_map.new_class[samples.labels]
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        raise UsageError(f"No sample of '{samples.spec}' is of a class in {path}.")
    selected = samples.select(kept)
    return dataclasses.replace(selected, labels=labels[kept], class_names=class_map.names)
