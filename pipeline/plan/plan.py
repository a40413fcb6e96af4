"""What an extraction will cost and change: a pilot is extracted into a temporary folder, timed, and scaled up.

data and teacher -> stratified pilot -> logits, times -> for every codec: fidelity, bytes, hours, break-even students
"""

import re
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...stores import Manifest
from ...stores import manifest as manifests
from ...stores.codecs import CODECS, Codec, Factorised, Float32, parse_codec
from ...stores.errors import KdpipeError, MismatchError, UsageError
from ...stores.groups import assign_groups
from ..config import ExtractConfig
from ..extract import Loaded, begin, codec_of, layout, load
from .costs import (
    CodecTimes,
    Disk,
    break_even,
    extraction_seconds,
    measure_codec,
    measure_disk,
    ranking_seconds,
    table_seconds,
)
from .fidelity import measure_fidelity
from .pilot import features_of, run_pilot
from .records import Fidelity, PilotTimes, Plan, StoreCost, StudentTimes
from .sizes import store_bytes
from .student import load_student, measure_student

DEFAULT_CODECS = (
    "float32", "float16", "float16+zstd", "int8", "int8+zstd", "topk:10", "topk:50", "topk:50+zstd", "factorised",
)  # fmt: skip
DEFAULT_STUDENT = "kdpipe:convnet_tiny"
# rows over which fidelity is measured, unless the user says otherwise or a chunk has more
_FIDELITY_ROWS = 2048
_STUDENT_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """What is planned.

    Attributes:
        extract: the extraction; its ``out`` is where the store will be: that disk is measured, nothing is left there.
            ``codec`` and ``views`` are not used.
        codecs: how logits may be stored; by default all kinds that fit the teacher.
        views: how many views there may be.
        pilot: samples of the pilot; by default as many as a steady speed needs.
        student: spec of a student, for the break-even number; by default a small one.
        epochs: of a student's training.
        seed: of the choice of samples.
    """

    extract: ExtractConfig
    codecs: tuple[str, ...] = ()
    views: tuple[int, ...] = (1,)
    pilot: int | None = None
    student: str | None = None
    epochs: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        for codec in self.codecs:
            parse_codec(codec)
        if self.pilot is not None and self.pilot < 2:
            raise UsageError(f"A pilot of {self.pilot} says nothing. Give at least 2 samples.")
        if not self.views or self.epochs < 1 or self.seed < 0:
            raise UsageError("Give at least one number of views, one epoch and a seed from 0.")
        for views in self.views:
            replace(self.extract, views=views)  # checked there
        if "logits" not in self.extract.write:
            raise UsageError("A plan compares how logits are stored, and --write leaves them out.")


def codec_list(text: str) -> tuple[str, ...]:
    """``float16,topk:10,temperatures=1,4,int8+zstd`` as its codecs."""
    names = "|".join(CODECS)
    return tuple(part for part in re.split(rf",(?=(?:{names})\b)", text) if part)


def make_plan(config: PlanConfig) -> Plan:
    """Run the teacher on a pilot, and say what whole extractions cost and change.

    Raises:
        KdpipeError: as :func:`kdpipe.pipeline.extract`; a codec asked for cannot hold these logits.
        OSError: the disk cannot be written to.
    """
    with tempfile.TemporaryDirectory(prefix=".kdpipe-plan-", dir=_existing(config.extract.out)) as name:
        folder = Path(name)
        started = time.perf_counter()
        loaded = load(config.extract)
        if config.student is not None:
            load_student(config.student, loaded)  # what is wrong with it is found out before the pilot
        whole = begin(replace(config.extract, codec="float32", views=1, out=folder / "whole"), loaded).writer.manifest
        start = time.perf_counter() - started
        survey = _Survey(config, loaded, whole, folder, start)
        costs = [cost for codec in survey.codecs for cost in survey.costs(codec)]
        fidelity = survey.fidelity()
    return Plan(
        data=whole.dataset.spec,
        teacher=whole.teacher.spec,
        device=whole.device,
        precision=whole.precision,
        num_samples=whole.num_samples,
        num_classes=whole.num_classes,
        pilot=survey.times(),
        student=survey.student,
        costs=tuple(costs),
        fidelity=tuple(fidelity),
        notes=tuple(survey.notes),
    )


class _Survey:
    """The pilot, and what is measured with it; every codec is looked at in turn."""

    def __init__(self, config: PlanConfig, loaded: Loaded, whole: Manifest, folder: Path, start: float) -> None:
        self._config, self._loaded, self._whole, self._folder = config, loaded, whole, folder
        samples, extract = loaded.inputs.samples, config.extract
        self._groups, _ = assign_groups(extract.groups, samples.class_counts, samples.class_names)
        self._pilot = run_pilot(extract, loaded, whole, self._groups, folder, count=config.pilot, seed=config.seed)
        self._start = start + self._pilot.first_seconds
        self.notes: list[str] = []
        self._features: np.ndarray | None = None
        self._constants: dict[str, np.ndarray] = {}
        few = config.pilot or max(_FIDELITY_ROWS, whole.chunk_rows)  # so that compressed chunks are really made
        self._few = _spread(len(self._pilot.positions), few)
        self.codecs = self._fitting()
        self._ranking, self._table = ranking_seconds(self._pilot.logits), table_seconds(self._pilot.samples)
        self._reference = self._codec_times(Float32())
        self._disk = self._measured_disk()
        self.student = self._measured_student()

    def costs(self, codec: Codec) -> list[StoreCost]:
        """What stores of a codec cost, for every number of views."""
        times = self._codec_times(codec)
        return [self._cost(codec, times, views) for views in self._config.views]

    def fidelity(self) -> list[Fidelity]:
        """What every codec changes; compression changes nothing."""
        plain = dict.fromkeys(replace(codec, compressed=False) for codec in self.codecs)
        return [
            measure_fidelity(
                codec, self._pilot.logits[self._few], self._groups, seed=self._config.seed,
                features=self._features if isinstance(codec, Factorised) else None,
                constants=self._constants if isinstance(codec, Factorised) else None,
            )
            for codec in plain
        ]  # fmt: skip

    def times(self) -> PilotTimes:
        """What was measured."""
        pilot, disk = self._pilot, self._disk
        return PilotTimes(
            samples=len(self._pilot.positions),
            steady_samples=pilot.steady_samples,
            batch_size=pilot.batch_size,
            workers=self._loaded.workers,
            seconds_per_sample=pilot.seconds_per_sample,
            warm_up_seconds=pilot.warm_up_seconds,
            start_seconds=self._start,
            write_bytes_per_second=disk.bytes_per_second,
            free_bytes=disk.free_bytes,
        )

    def _fitting(self) -> list[Codec]:
        """The codecs that can hold these logits; of those not asked for, the others are noted."""
        codecs = []
        for text in self._config.codecs or DEFAULT_CODECS:
            try:
                codecs.append(self._prepared(text))
            except (UsageError, MismatchError) as error:
                if self._config.codecs:
                    raise
                self.notes.append(f"{text} is left out: {error}")
        return codecs

    def _prepared(self, text: str) -> Codec:
        """A codec with what it needs to know of the teacher; the factorised one needs features, too."""
        extract, classes = replace(self._config.extract, codec=text), self._loaded.inputs.samples.num_classes
        codec, constants = codec_of(extract, self._loaded.teacher, classes)
        codec.arrays(classes)
        if isinstance(codec, Factorised) and self._features is None:
            positions = self._pilot.positions[self._few]
            self._features, self._constants = features_of(extract, self._loaded, positions, self._folder), constants
        codec.encode(self._values(codec)[:1], self._groups)
        return codec

    def _values(self, codec: Codec) -> np.ndarray:
        """What a codec encodes, for some rows of the pilot."""
        features = self._features if codec.source == "features" else None
        return self._pilot.logits[self._few] if features is None else features

    def _manifest(self, codec: Codec, views: int) -> Manifest:
        """Of the store that would be made."""
        whole = self._whole
        extract = replace(self._config.extract, codec=str(codec))
        fields = layout(extract, codec, whole.num_samples, whole.num_classes)
        fields["arrays"] = (*fields["arrays"], *whole.view_arrays)
        return manifests.replace(whole, **fields, num_views=views)

    def _arrays(self, codec: Codec) -> dict[str, np.ndarray]:
        """The arrays of the store, for some rows of the pilot."""
        others = {name: rows[self._few] for name, rows in self._pilot.arrays.items() if name != "logits"}
        return {**others, **codec.encode(self._values(codec), self._groups)}

    def _codec_times(self, codec: Codec) -> CodecTimes:
        return measure_codec(
            codec, self._manifest(codec, 1), self._values(codec), self._arrays(codec), self._groups, self._constants
        )

    def _cost(self, codec: Codec, times: CodecTimes, views: int) -> StoreCost:
        manifest, samples = self._manifest(codec, views), self._loaded.inputs.samples
        size = store_bytes(manifest, samples, self._groups, self._arrays(codec), self._pilot.samples)
        seconds = extraction_seconds(
            manifest, size, self._pilot, self._disk,
            start=self._start, ranking=self._ranking, table=self._table, codec=times, reference=self._reference,
        )  # fmt: skip
        even = self.student and break_even(seconds, len(samples), self.student, times.decode)
        return StoreCost(
            codec=str(codec),
            views=views,
            seconds=seconds,
            bytes=size.total,
            bytes_per_view=size.total / (len(samples) * views),
            parts=size,
            fits=size.total <= self._disk.free_bytes,
            break_even_students=even,
        )

    def _measured_disk(self) -> Disk:
        manifest = self._whole
        largest = max(array.row_bytes for array in manifest.arrays) * manifest.chunk_rows
        return measure_disk(self._folder, largest)

    def _measured_student(self) -> StudentTimes | None:
        spec = self._config.student or DEFAULT_STUDENT
        positions = self._pilot.positions[_spread(len(self._pilot.positions), _STUDENT_BATCH)]
        try:
            return measure_student(spec, self._loaded, positions, epochs=self._config.epochs)
        except KdpipeError as error:
            if self._config.student:
                raise
            self.notes.append(
                f"No break-even number: {spec} could not be timed ({error}) Give a student of yours: --student SPEC."
            )
            return None


def _existing(path: Path) -> Path:
    """The nearest folder that is there, of a path that may not be."""
    folder = path.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _spread(count: int, wanted: int) -> np.ndarray:
    """At most ``wanted`` numbers below ``count``, evenly spread."""
    return np.arange(count) if wanted >= count else np.arange(wanted) * count // wanted
