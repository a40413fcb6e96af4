"""Other classes for rows that are there: logits, ranks and samples of a store under a class map.

A new class that is one old class keeps its logit: the softmax over the new classes is then the old distribution, given
that one of the kept classes is meant. A new class made of several has the log sum exp of their logits, so that its
probability (at temperature 1) is exactly the sum of theirs.

Shapes: n rows, D old rank depth, C new classes, M old classes that are taken.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from ..arrays import ArrayInfo, class_dtype
from ..codecs import Codec, Factorised, Float16, Float32, LogitCodec, TopK, parse_codec
from ..confidence import confidence_and_entropy
from ..errors import MissingArrayError, RefusedError
from ..manifest import Manifest
from ..ranking import rank_classes
from .class_map import ClassMap

# rows are worked on so many logits at a time, so that the float64 copies stay small
_SLICE_ELEMENTS = 2**20

Arrays = Mapping[str, np.ndarray]


class MappedColumns:
    """The rows of a store with the classes of a map.

    Args:
        manifest: of the store.
        constants: of the store.
        class_map: which classes become which.
        codec: how the new logits are stored; None for the store's own codec where it can hold them exactly or rounds
            once (float16, float32, factorised for a selection that leaves more classes than features), else float16.

    Attributes:
        class_map: which classes become which.
        arrays: of the new store.
        codec: of the new store.
        constants: of the new store.

    Raises:
        RefusedError: the store has not all logits, or the features cannot be kept.
        UsageError: the codec cannot be read, or makes no sense for so many classes.
    """

    def __init__(self, manifest: Manifest, constants: Arrays, class_map: ClassMap, codec: str | None) -> None:
        codec_there = manifest.logit_codec
        if not manifest.components("logits") or not isinstance(codec_there, LogitCodec):
            raise MissingArrayError(
                f"This needs a store with all logits; this one has {manifest.array_names}. A top-k store does not know "
                "those of the classes it left out, a store of ranks none. Extract again with --codec float16."
            )
        self._old, self._old_constants, self.class_map = codec_there, constants, class_map
        num_classes = len(class_map.names)
        self.codec = _codec(self._old, class_map, codec)
        self._keeps_features = isinstance(self.codec, Factorised)
        logits = self.codec.arrays(num_classes)
        kept = constants if self._keeps_features else {}
        self.constants = {name: values[class_map.columns] for name, values in kept.items()}
        ranks = manifest.array("ranks")
        others = [array for array in manifest.arrays if array not in (*manifest.logit_arrays, ranks)]
        self._rank_depth = min(ranks.width, num_classes) if ranks is not None else 0
        new_ranks = ArrayInfo(name="ranks", dtype=class_dtype(num_classes), width=max(self._rank_depth, 1))
        self.arrays = (*logits, *((new_ranks,) if ranks is not None else ()), *others)

    def apply(self, stored: Arrays, class_groups: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The arrays of some rows under the map.

        Args:
            stored: (n, width) of every array of the store.
            class_groups: (C,) group of every new class.

        Returns:
            (n, width) of every array of the new store; and (n,) teacher_top1, teacher_confidence and teacher_entropy.

        Raises:
            BadLogitsError: the new codec cannot hold a logit.
        """
        n = len(next(iter(stored.values())))
        values = {array.name: np.empty((n, array.width), array.dtype) for array in self.arrays}
        top1, confidence, entropy = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32)
        for rows in _slices(n, self.class_map.num_old):
            part = {name: array[rows] for name, array in stored.items()}
            logits = self._logits(part)
            source = part["features"].astype(np.float32) if self._keeps_features else logits
            new = {**part, **self.codec.encode(source, class_groups)}
            order = self._order(logits, part.get("ranks"))
            new["ranks"] = order[:, : self._rank_depth]
            if isinstance(self.codec, TopK):  # of equal logits the codec takes other ones than the ranks
                new["top_classes"] = order[:, : self.codec.k]
                new["top_logits"] = np.take_along_axis(logits, order[:, : self.codec.k], axis=1)
            for array in self.arrays:
                values[array.name][rows] = new[array.name]
            top1[rows] = order[:, 0]
            confidence[rows], entropy[rows] = confidence_and_entropy(logits)
        return values, {"teacher_top1": top1, "teacher_confidence": confidence, "teacher_entropy": entropy}

    def _logits(self, stored: Arrays) -> np.ndarray:
        """(n, C) float32: the new classes' logits."""
        return merged_logits(self._old.decode({**stored, **self._old_constants}), self.class_map)

    def _order(self, logits: np.ndarray, ranks: np.ndarray | None) -> np.ndarray:
        """(n, C) class ids, best first.

        By the logits; where these are equal (they were rounded) by the old ranks, which are from before rounding. Where
        features are kept, by the old ranks first: the sums of their products need not fall where the teacher's did.
        """
        if ranks is None:
            return rank_classes(logits)
        places = np.full((len(logits), self.class_map.num_old), ranks.shape[1], np.int64)
        np.put_along_axis(places, ranks.astype(np.int64), np.arange(ranks.shape[1])[None], axis=1)
        best = np.minimum.reduceat(places[:, self.class_map.columns], self.class_map.starts, axis=1)
        keys = (-logits, best) if self._keeps_features else (best, -logits)
        return np.lexsort(keys, axis=1)  # the last key first; stable, so that the rest is by class id


def merged_logits(logits: np.ndarray, class_map: ClassMap) -> np.ndarray:
    """The logits of the new classes: of one old class its own, of several the log sum exp of theirs.

    Args:
        logits: (n, old C) of any float dtype, finite.
        class_map: which classes become which.

    Returns:
        (n, C) float32, the float64 result rounded once.
    """
    taken = logits[:, class_map.columns]
    if class_map.is_selection:
        return taken.astype(np.float32)
    taken = taken.astype(np.float64)
    highest = np.maximum.reduceat(taken, class_map.starts, axis=1)
    taken -= np.repeat(highest, [len(members) for members in class_map.members], axis=1)
    sums = np.add.reduceat(np.exp(taken), class_map.starts, axis=1)
    return (highest + np.log(sums)).astype(np.float32)


def _codec(old: Codec, class_map: ClassMap, wanted: str | None) -> Codec:
    if wanted is None:
        if isinstance(old, Float16 | Float32):
            return old
        if isinstance(old, Factorised) and class_map.is_selection and old.num_features < len(class_map.names):
            return old
        return Float16(compressed=old.compressed)
    codec = parse_codec(wanted)
    if isinstance(codec, Factorised):
        if not isinstance(old, Factorised):
            raise RefusedError(
                "The codec 'factorised' stores the teacher's features, which this store does not have. Extract again "
                "with --codec factorised, or use --codec float16."
            )
        if not class_map.is_selection:
            raise RefusedError(
                "The codec 'factorised' stores the teacher's features, and merged classes are no linear function of "
                "them. Use --codec float16."
            )
        return Factorised(num_features=old.num_features, compressed=codec.compressed)
    return codec


def _slices(n: int, width: int) -> Iterator[slice]:
    step = max(1, _SLICE_ELEMENTS // width)
    return (slice(start, start + step) for start in range(0, n, step))
