"""Proof by replay: the teacher computes some rows of a store again, and they are compared with what is stored.

Shapes: B rows computed again, C classes, D rank depth.
"""

import dataclasses
from dataclasses import dataclass
from os import PathLike

import numpy as np

from ..stores import MismatchError, Store, UsageError, open_store
from ..stores.checks.report import Finding, Report
from ..stores.codecs import Float16, Float32, LogitCodec, TopK
from .alignment import check_alignment
from .data import load_data
from .hardware import pick_device, round_off
from .inputs import InputDataset, store_inputs
from .teachers import Teacher, load_teacher

# of two sums of exponentials
_SUM_ROUND_OFF = 1e-5


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Stored rows against recomputed ones.

    Attributes:
        rows: how many were computed again.
        largest_difference: between stored and recomputed logits; None where the store has no logits.
        findings: rows that differ by more than rounding, by chunk and array.
    """

    rows: int
    largest_difference: float | None
    findings: tuple[Finding, ...]

    def added_to(self, report: Report) -> Report:
        """The report with this replay in it."""
        return dataclasses.replace(
            report,
            findings=report.findings + self.findings,
            rows_recomputed=self.rows,
            largest_difference=self.largest_difference,
        )


def recheck(
    store: Store | str | PathLike[str],
    *,
    teacher: str,
    data: str,
    preprocess: str | None = None,
    rows: int = 32,
    device: str = "auto",
) -> Replay:
    """Run the teacher again over rows spread evenly over the store, and compare logits and ranks.

    A logit may differ by the error bound of the store's codec (float16: a part in 2048) and by the round-off of
    computing it in another order: 1e-4 (fp32 on a CPU), 5e-3 (fp32 on a GPU), 1e-2 (fp16) or 5e-2 (bf16) of the largest
    logit of the row. Ranks, and the classes that a top-k store keeps, may differ where the logits are closer than twice
    that.

    Args:
        store: the store, or its path.
        teacher: the model spec it was made with; a store's own record of it is never loaded.
        data: the data spec it was made from.
        preprocess: as it was given to extract, if it was.
        rows: how many rows of all views to compute again.
        device: torch device, or ``auto``.

    Raises:
        MismatchError: the teacher has other weights, or the data, its preprocessing or its input tensors are others.
        UsageError: a spec is wrong, or the data lacks all the rows.
    """
    if rows < 1:
        raise UsageError(f"rows is {rows}; it must be at least 1.")
    opened = open_store(store, allow_unfinished=True) if not isinstance(store, Store) else store
    manifest = opened.manifest
    samples = load_data(data)
    where = pick_device(device)
    precision = manifest.precision.partition("/")[0]  # what ran it is no part of the precision
    loaded = load_teacher(teacher, samples, preprocess=preprocess, device=where, precision=precision)
    _check_same_teacher(opened, loaded, teacher)
    joined = opened.join(InputDataset(samples, loaded.preprocessing))
    inputs = store_inputs(opened, samples, joined, loaded.preprocessing)
    check_alignment(opened, inputs, joined, manifest.num_views)
    total = len(joined) * manifest.num_views
    picked = np.unique(np.linspace(0, total - 1, min(rows, total)).round().astype(np.int64))
    on_cpu = where.type == "cpu" and manifest.device == "cpu"
    comparison = _Comparison(opened, round_off(precision, on_cpu))
    for view in np.unique(picked // len(joined)).tolist():
        of_view = picked[picked // len(joined) == view] % len(joined)
        for start in range(0, len(of_view), manifest.batch_size):
            part = of_view[start : start + manifest.batch_size]
            batch = inputs.at_view(view).batch(joined.positions[part])
            logits = loaded.logits(batch.inputs, manifest.num_classes).cpu().numpy()
            comparison.add(view, joined.rows[part], logits)
    return Replay(rows=len(picked), largest_difference=comparison.largest, findings=tuple(comparison.findings()))


def _check_same_teacher(store: Store, loaded: Teacher, spec: str) -> None:
    if loaded.info.checksum != store.manifest.teacher.checksum:
        raise MismatchError(
            f"The teacher '{spec}' has other weights ({loaded.info.checksum}) than the one that made {store} "
            f"({store.manifest.teacher.checksum}, recorded as '{store.manifest.teacher.spec}'). Give that one."
        )
    if loaded.preprocessing.to_dict() != store.manifest.preprocessing:
        raise MismatchError(
            f"The preprocessing is {loaded.preprocessing}, {store} was made with {store.manifest.preprocessing}. "
            "Give --preprocess as it was given to extract."
        )


class _Comparison:
    """Recomputed rows against stored ones, by chunk and array."""

    def __init__(self, store: Store, round_off: float) -> None:
        manifest = store.manifest
        self._store, self._round_off, self._codec = store, round_off, manifest.logit_codec
        decoded = ("logits",) if manifest.components("logits") else ()
        said = (array.name for array in manifest.arrays if array not in manifest.view_arrays)
        self._names = list(dict.fromkeys([*decoded, *said]))
        self._compared: dict[int, int] = {}
        self._bad: dict[tuple[int, str], list[tuple[int, float, float]]] = {}
        self._view = 0
        self.largest: float | None = None

    def add(self, view: int, rows: np.ndarray, logits: np.ndarray) -> None:
        """Compare (B,) rows of a view with their recomputed (B, C) logits."""
        self._view = view
        stored = self._store.read(rows, arrays=self._names, view=view)
        tolerance = self._round_off * np.abs(logits).max(1, keepdims=True)
        for row in rows.tolist():
            chunk = self._chunk(row)
            self._compared[chunk] = self._compared.get(chunk, 0) + 1
        if "logits" in stored and isinstance(self._codec, LogitCodec):
            values = stored["features"].astype(np.float32) if self._codec.source == "features" else logits
            allowed = _allowed(self._codec, values, self._store.constants, tolerance)
            self._compare_logits("logits", rows, stored["logits"], logits, allowed)
        if "top_logits" in stored and isinstance(self._codec, TopK):
            self._compare_top(self._codec, rows, stored, logits, tolerance)
        for name in ("ranks", "top_classes"):
            if name in stored:
                self._note(name, rows, _rises(logits, stored[name].astype(np.int64)), 2 * tolerance)

    def _compare_logits(
        self, name: str, rows: np.ndarray, stored: np.ndarray, logits: np.ndarray, allowed: np.ndarray
    ) -> None:
        difference = np.abs(stored.astype(np.float32) - logits)
        self.largest = max(self.largest or 0.0, float(difference.max()))
        self._note(name, rows, difference, allowed)

    def _compare_top(
        self, codec: TopK, rows: np.ndarray, stored: dict[str, np.ndarray], logits: np.ndarray, tolerance: np.ndarray
    ) -> None:
        """Kept logits, and the logsumexps: these move by no more than the logits over T do."""
        classes = np.minimum(stored["top_classes"].astype(np.int64), logits.shape[1] - 1)
        kept = np.take_along_axis(logits, classes, axis=1)
        self._compare_logits("top_logits", rows, stored["top_logits"], kept, tolerance)
        again = codec.encode(logits, self._store.class_groups)
        for name in ("logsumexp", "group_logsumexp"):
            ours, theirs = again[name], stored[name]
            temperatures = np.repeat(codec.temperatures, theirs.shape[1] // len(codec.temperatures))
            size = np.abs(np.where(np.isfinite(ours), ours, 0))
            with np.errstate(invalid="ignore"):
                difference = np.where(theirs == ours, 0, np.abs(theirs - ours))  # -inf for a group without classes
            self._note(name, rows, difference, tolerance / temperatures + _SUM_ROUND_OFF * (1 + size))

    def findings(self) -> list[Finding]:
        """One for each array of each chunk that has rows that differ."""
        found = []
        grid = self._store.manifest.grid
        for (chunk, name), bad in sorted(self._bad.items()):
            row, difference, allowed = max(bad, key=lambda entry: entry[1] / entry[2] if entry[2] else np.inf)
            what = "order" if name in ("ranks", "top_classes") else "logits"
            problem = (
                f"the teacher gives other {what} in {len(bad)} of {self._compared[chunk]} rows computed again: "
                f"row {row:,} is off by {difference:.3g}, rounding explains {allowed:.2g}"
            )
            array = self._store.stored(name)[0].name
            path = self._store.layout.array_file(array, grid.view(chunk), grid.block(chunk))
            found.append(Finding(path=path, chunk=chunk, check="replay", problem=problem))
        return found

    def _note(self, name: str, rows: np.ndarray, difference: np.ndarray, allowed: np.ndarray) -> None:
        allowed = np.broadcast_to(allowed, difference.shape)
        over = ~(difference <= allowed)  # NaN compares false
        for i in np.flatnonzero(over.any(1)).tolist():
            worst = int(np.argmax(difference[i] - allowed[i]))
            entry = (int(rows[i]), float(difference[i, worst]), float(allowed[i, worst]))
            self._bad.setdefault((self._chunk(int(rows[i])), name), []).append(entry)

    def _chunk(self, row: int) -> int:
        grid = self._store.manifest.grid
        return self._view * grid.chunks_per_view + row // grid.chunk_rows


def _allowed(
    codec: LogitCodec, values: np.ndarray, constants: dict[str, np.ndarray], tolerance: np.ndarray
) -> np.ndarray:
    """By how much stored logits may be off: by the codec, and by ``tolerance`` as the teacher may be."""
    bound = codec.error_bound(values, constants)
    # other codecs' steps follow the row that was stored, which is not quite this one
    return tolerance + bound if isinstance(codec, Float16 | Float32) else 2 * (tolerance + bound)


def _rises(logits: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """By how much each ranked class (B, D) is beaten by a class that is stored as worse; 0 where the order is right."""
    known = (ranks < logits.shape[1]).all(1)
    ordered = np.take_along_axis(logits, np.where(known[:, None], ranks, 0), axis=1)
    rest = np.array(logits)
    np.put_along_axis(rest, np.where(known[:, None], ranks, 0), -np.inf, axis=1)
    # the best of all that is ranked after a place, or not at all
    after = np.maximum.accumulate(np.concatenate([ordered, rest.max(1, keepdims=True)], axis=1)[:, ::-1], axis=1)
    rise = np.maximum(after[:, ::-1][:, 1:] - ordered, 0)
    rise[~known] = np.inf
    return rise
