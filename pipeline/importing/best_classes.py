"""What top-k stores of others have in common: the best classes of a row with their probabilities at T = 1.

Shapes: n rows, C classes, K kept classes.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...stores.arrays import GROUP_NAMES, class_dtype
from ...stores.codecs import TopK
from ...stores.errors import BadLogitsError
from ...stores.files import checksum, file_checksum

# how far rounded probabilities may add up to more than 1; more is not rounding
_ROOM = 1e-2

BestClasses = tuple[np.ndarray, np.ndarray]


def _no_geometry(_: int, __: range) -> dict[str, np.ndarray]:
    return {}


class TopRows:
    """Rows of the best classes as the codec ``topk`` has them, exactly as far as the source is.

    With logits log p, the logsumexp at T = 1 is 0: the probabilities are those of the source, and what they leave of 1
    is the mass of the other classes. Where rounded ones add up to more than 1, the logsumexp is the log of their sum:
    nothing is left. No other temperature follows from probabilities of a part of the classes.

    Args:
        read: gives (n, K) class ids, best first, and (n, K) probabilities of some rows of a view.
        codec: ``topk:K,temperatures=1``; K may be less than the source's.
        num_classes: C.
        sample_ids: (N,) of the rows, for messages.
        geometry: gives ``boxes`` and ``flips`` of some rows of a view, where these are known.
    """

    def __init__(
        self,
        read: Callable[[int, range], BestClasses],
        codec: TopK,
        num_classes: int,
        sample_ids: pa.Array,
        geometry: Callable[[int, range], dict[str, np.ndarray]] = _no_geometry,
    ) -> None:
        self._read, self._codec, self._num_classes, self._sample_ids = read, codec, num_classes, sample_ids
        self._geometry = geometry

    def __call__(self, view: int, rows: range) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The arrays of some rows, and what the samples table says of the teacher."""
        classes, chances = self._read(view, rows)
        classes, chances = classes[:, : self._codec.k].astype(np.int64), chances[:, : self._codec.k].astype(np.float64)
        self._check(view, rows, classes, chances)
        kept = chances.sum(1)
        total = np.log(np.maximum(kept, 1))
        ids = classes.astype(class_dtype(self._num_classes))
        groups = np.full((len(classes), len(GROUP_NAMES)), -np.inf, np.float32)
        groups[:, 0] = total  # all classes are in one group
        logits = np.log(chances)
        arrays = {
            "top_classes": ids,
            "top_logits": logits.astype(np.float32),
            "logsumexp": total[:, None].astype(np.float32),
            "group_logsumexp": groups,
            "ranks": ids,
            **self._geometry(view, rows),
        }
        rest = np.maximum(1 - kept, 0)
        of_rest = rest * np.log(np.where(rest > 0, rest, 1))
        entropy = np.maximum(-(chances * logits).sum(1) - of_rest, 0)
        said = {
            "teacher_top1": classes[:, 0],
            "teacher_confidence": np.minimum(chances[:, 0], 1).astype(np.float32),
            "teacher_entropy": np.minimum(entropy, math.log(self._num_classes)).astype(np.float32),
        }
        return arrays, said

    def _check(self, view: int, rows: range, classes: np.ndarray, chances: np.ndarray) -> None:
        """Refuse what is no list of classes with falling probabilities."""
        ordered = np.sort(classes, axis=1)
        problems = {
            f"a class outside 0 to {self._num_classes - 1}": ((classes < 0) | (classes >= self._num_classes)).any(1),
            "a class twice": (ordered[:, 1:] == ordered[:, :-1]).any(1),
            "numbers that are no probabilities": ~(
                (chances >= 0).all(1) & (chances <= 1 + _ROOM).all(1) & (chances.sum(1) <= 1 + _ROOM)
            ),
            "probabilities that do not fall": (chances[:, 1:] > chances[:, :-1]).any(1),
        }
        for problem, bad in problems.items():
            if bad.any():
                raise BadLogitsError(f"{self._name(view, rows, bad)} {problem}. Is this the file it should be?")
        if (zero := chances == 0).any():
            place = int(zero.argmax(1)[zero.any(1)].min())
            hint = f"Keep the best {place} only: --codec topk:{place},temperatures=1." if place else "Leave it out."
            raise BadLogitsError(
                f"{self._name(view, rows, zero.any(1))} probabilities that were rounded to 0, which have no logarithm. "
                f"{hint} The mass of the others stays known."
            )

    def _name(self, view: int, rows: range, bad: np.ndarray) -> str:
        row = rows.start + int(np.flatnonzero(bad)[0])
        more = f" and {int(bad.sum()) - 1} more rows have" if bad.sum() > 1 else " has"
        return f"'{self._sample_ids[row].as_py()}' (view {view}, row {row:,}){more}"


def folder_checksum(paths: list[Path], root: Path) -> str:
    """One checksum over the names and the bytes of files."""
    return checksum("\n".join(f"{path.relative_to(root)} {file_checksum(path)}" for path in paths).encode())
