"""Whether the arrays of a chunk agree with each other, and with what the samples table says of them.

Shapes: N rows of a chunk, n rows of a slice of it, C classes, D rank depth, K kept classes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..arrays import GROUP_NAMES, ArrayInfo
from ..codecs import Int8, LogitCodec, TopK
from ..codecs.top import logsumexp
from ..manifest import Manifest
from ..payload.layout import payload_layout
from .content import Faults
from .views import add_view_faults

# a slice of rows is compared at a time, so that neither memory nor the cache overflows
_SLICE_ELEMENTS = 2**19
# how far sums of float32 numbers may be off, as a fraction of the numbers
_ROUND_OFF = 1e-5

Rows = Callable[[int, int], np.ndarray]
Values = Mapping[str, np.ndarray]


def payload_faults(
    root: Path,
    manifest: Manifest,
    chunk: int,
    names: Sequence[str],
    top1: np.ndarray | None,
    constants: Values,
) -> Faults:
    """Contradictions within the arrays of one chunk, and with what the samples table says of them.

    Args:
        root: the store.
        manifest: of the store.
        chunk: which chunk.
        names: the arrays to look at: those whose files are what was written.
        top1: (N,) the teacher's best class of every row by the samples table, if there is one to compare with.
        constants: the arrays that are stored once, as far as they are whole.

    Raises:
        OSError: a file cannot be read.
        CorruptStoreError: a file is no chunk of this store.
    """
    grid, faults = manifest.grid, Faults()
    rows = grid.rows(chunk)
    infos = [array for array in manifest.arrays if array.name in names]
    layout = payload_layout(manifest)
    read = {info.name: layout.reader(root, info, chunk) for info in infos}
    check = _Checks(faults, manifest, constants)
    step = max(1, _SLICE_ELEMENTS // max([info.width for info in infos], default=1))
    for begin in range(0, len(rows), step):
        end = min(begin + step, len(rows))
        values = {name: part(begin, end) for name, part in read.items()}
        check.compare(rows.start + begin, values, None if top1 is None else top1[begin:end])
    for info in infos:
        _check_padding(faults, read[info.name], info, rows, layout.padded_rows(chunk))
    return faults


class _Checks:
    """The checks of slices of rows: what each array must be by itself, then what it must be beside the others."""

    def __init__(self, faults: Faults, manifest: Manifest, constants: Values) -> None:
        self._faults, self._num_classes, self._constants = faults, manifest.num_classes, constants
        self._num_samples = manifest.num_samples
        self._codec = manifest.logit_codec
        self._components = {array.name for array in manifest.logit_arrays}
        self._has_constants = all(constant.name in constants for constant in manifest.constants)

    def compare(self, start: int, values: Values, top1: np.ndarray | None) -> None:
        """Compare a slice of rows, beginning with row ``start``."""
        add_view_faults(self._faults, values, start, self._num_samples)
        ranks = values.get("ranks")
        logits = finite = best = None
        if ranks is not None:
            best = self._class_lists("ranks", "rank", ranks, start)
            if top1 is not None:
                wrong = best & (ranks[:, 0] != top1)
                self._faults.add("samples", "teacher_top1 is not the first rank", wrong, start)
        if not self._components or not self._has_constants or not self._components <= values.keys():
            return
        if isinstance(self._codec, TopK):
            self._compare_top(self._codec, start, values, top1 if ranks is None else None)
        elif isinstance(self._codec, LogitCodec):
            logits, finite = self._logits(self._codec, start, values)
            if top1 is not None and ranks is None:
                self._compare_top1(start, logits, finite, top1)
        # the sums of float32 products need not fall where the teacher's did
        if ranks is not None and logits is not None and finite is not None and self._codec.source == "logits":
            self._compare_order(start, logits, ranks, finite & best)

    def _class_lists(self, where: str, what: str, classes: np.ndarray, start: int) -> np.ndarray:
        """Whether each row of (n, D) names different classes: (n,)."""
        known = np.asarray((classes < self._num_classes).all(1))
        self._faults.add(where, f"a {what} is no class", ~known, start)
        seen = np.zeros((len(classes), self._num_classes), bool)
        seen.reshape(-1)[_places(classes, known, self._num_classes)] = True
        distinct = np.count_nonzero(seen, axis=1) == classes.shape[1]
        problem = "a class is ranked twice" if where == "ranks" else "a class is kept twice"
        self._faults.add(where, problem, known & ~distinct, start)
        return known & distinct

    def _logits(self, codec: LogitCodec, start: int, values: Values) -> tuple[np.ndarray, np.ndarray]:
        """The logits that a reader gets, and whether they are finite; each array of theirs by itself."""
        where = codec.arrays(self._num_classes)[-1].name
        if isinstance(codec, Int8):
            self._faults.add("logit_scale", "a step is below 0", values["logit_scale"][:, 1] < 0, start)
            without = values["logit_codes"].min(1) > 0
            self._faults.add("logit_codes", "no class has the row's largest logit", without, start)
        with np.errstate(over="ignore", invalid="ignore"):
            logits = codec.decode({**values, **self._constants}).astype(np.float32, copy=False)
        finite = np.asarray(np.isfinite(logits).all(1))
        self._faults.add(where, "the logits are not finite", ~finite, start)
        equal = finite & (logits.max(1) == logits.min(1))
        self._faults.add(where, "all logits are equal: the teacher prefers no class", equal, start, "warning")
        return logits, finite

    def _compare_top1(self, start: int, logits: np.ndarray, finite: np.ndarray, top1: np.ndarray) -> None:
        known = finite & (top1 >= 0) & (top1 < self._num_classes)
        best = logits[np.arange(len(logits)), np.where(known, top1, 0)]
        wrong = known & (best < logits.max(1)) & (self._codec.source == "logits")
        self._faults.add("samples", "teacher_top1 is not the class of the highest logit", wrong, start)

    def _compare_top(self, codec: TopK, start: int, values: Values, top1: np.ndarray | None) -> None:
        """The kept classes, their logits, and the logsumexps of all and of the groups."""
        classes, logits = values["top_classes"], values["top_logits"].astype(np.float64)
        usable = self._class_lists("top_classes", "kept class", classes, start)
        ranks = values.get("ranks")
        if ranks is not None:
            both = min(ranks.shape[1], classes.shape[1])
            other = usable & (ranks[:, :both] != classes[:, :both]).any(1)
            self._faults.add("top_classes", "the kept classes are not the first ranks", other, start)
        elif top1 is not None:
            wrong = usable & (classes[:, 0] != top1)
            self._faults.add("samples", "teacher_top1 is not the first kept class", wrong, start)
        finite = np.asarray(np.isfinite(logits).all(1))
        self._faults.add("top_logits", "the logits are not finite", ~finite, start)
        rising = finite & (logits[:, 1:] > logits[:, :-1]).any(1)
        self._faults.add("top_logits", "the kept logits do not fall", rising, start)
        with np.errstate(invalid="ignore"):  # infinite ones are found, not warned of
            self._compare_sums(codec, start, values, np.where(finite[:, None], logits, np.nan))

    def _compare_sums(self, codec: TopK, start: int, values: Values, logits: np.ndarray) -> None:
        """The logsumexps: of all classes no less than of the kept, and of the groups together the same."""
        for index, temperature in enumerate(codec.temperatures):
            total = values["logsumexp"][:, index].astype(np.float64)
            room = _ROUND_OFF * (1 + np.abs(total))
            less = ~np.isfinite(total) | (total < logsumexp(logits / temperature) - room)
            self._faults.add("logsumexp", "a logsumexp is below that of the kept classes", less, start)
            width = len(GROUP_NAMES)
            groups = values["group_logsumexp"][:, index * width : (index + 1) * width].astype(np.float64)
            apart = ~(np.abs(logsumexp(groups) - total) <= room)  # NaN compares false
            self._faults.add("group_logsumexp", "the groups do not add up to all classes", apart, start)

    def _compare_order(self, start: int, logits: np.ndarray, ranks: np.ndarray, usable: np.ndarray) -> None:
        """Whether the logits fall along the ranks: rounding makes neighbours equal, it never turns them round."""
        places = _places(ranks, usable, self._num_classes)
        ordered = logits.reshape(-1)[places]
        falling = (ordered[:, 1:] <= ordered[:, :-1]).all(1)
        if places.shape[1] < logits.shape[1]:
            rest = logits.copy()
            rest.reshape(-1)[places] = -np.inf
            falling &= rest.max(1) <= ordered[:, -1]
        self._faults.add("ranks", "the ranks are not the order of the logits", usable & ~falling, start)


def _places(classes: np.ndarray, usable: np.ndarray, num_classes: int) -> np.ndarray:
    """One number for each (row, class); rows that are not usable name class 0 only."""
    return np.where(usable[:, None], classes, 0).astype(np.int64) + num_classes * np.arange(len(classes))[:, None]


def _check_padding(faults: Faults, read: Rows, info: ArrayInfo, rows: range, padded_rows: int) -> None:
    """The rows after the last one hold the fill value."""
    step = max(1, _SLICE_ELEMENTS // info.width)
    for begin in range(len(rows), padded_rows, step):
        padding = read(begin, min(begin + step, padded_rows))
        filled = np.isnan(padding) if info.dtype.startswith("float") else padding == info.fill_value
        faults.add(info.name, "the padding is not the fill value", ~filled.all(1), rows.start + begin)
