"""What a plan says, as records that become its JSON."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over the pilot, and its standard error (that of the mean, over random tenths of the pilot)."""

    value: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """How far a codec changes what the teacher says; :class:`kdpipe.stores.codecs.Fidelity` defines every number.

    Attributes:
        codec: without ``+zstd``, which changes nothing.
        samples: of the pilot, over which this was measured.
        kl, group_mass_error: by temperature; one that the codec does not store is not there.
        coverage: the part of the mass of head, medium and tail classes that is stored, by temperature.
    """

    codec: str
    samples: int
    kl: dict[str, Estimate]
    top1_flips: Estimate
    adjacent_ties: Estimate
    rank_correlation: Estimate
    group_mass_error: dict[str, Estimate]
    coverage: dict[str, dict[str, Estimate]]


@dataclass(frozen=True, kw_only=True)
class StoreBytes:
    """Bytes of a finished store.

    Attributes:
        payload: the arrays' chunks, padded, and what is stored once.
        tables: classes and samples.
        receipts: of all chunks.
        documents: manifest and Zarr metadata.
    """

    payload: int
    tables: int
    receipts: int
    documents: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.payload + self.tables + self.receipts + self.documents


@dataclass(frozen=True, kw_only=True)
class StoreCost:
    """What one store costs.

    Attributes:
        codec: how logits are stored.
        views: V.
        seconds: of the extraction on this machine.
        parts: of ``bytes``.
        bytes: of the store.
        bytes_per_view: of the store, for each sample and view.
        fits: whether the disk has so much space.
        break_even_students: the fewest students for which extraction and training from the store take less time than
            training with the live teacher; None where that was not measured, or where there is no such number.
    """

    codec: str
    views: int
    seconds: float
    bytes: int
    bytes_per_view: float
    parts: StoreBytes
    fits: bool
    break_even_students: int | None


@dataclass(frozen=True, kw_only=True)
class PilotTimes:
    """What the pilot measured.

    Attributes:
        samples: that the teacher saw in the timed pass.
        steady_samples: those after the warm-up, from which the speed was taken.
        batch_size: of the pass.
        workers: reading processes.
        seconds_per_sample: of the steady state: reading, decoding, the teacher, ranking, checks.
        warm_up_seconds: what the first batches of every view take on top.
        start_seconds: until the data set and the teacher are loaded, and what the very first batch takes on top.
        write_bytes_per_second: of this disk, flushed, in files of a chunk's size.
        free_bytes: of this disk.
    """

    samples: int
    steady_samples: int
    batch_size: int
    workers: int
    seconds_per_sample: float
    warm_up_seconds: float
    start_seconds: float
    write_bytes_per_second: float
    free_bytes: int


@dataclass(frozen=True, kw_only=True)
class StudentTimes:
    """A student's training step with a given teacher's logits, and with the teacher live.

    Attributes:
        student: its spec.
        batch_size: of the step.
        seconds_per_sample: of the step alone: forward, backward, update; inputs and targets are there.
        live_seconds_per_sample: of the step with the teacher's pass on the same batch before it.
        epochs: of a training run.
    """

    student: str
    batch_size: int
    seconds_per_sample: float
    live_seconds_per_sample: float
    epochs: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What extractions of one teacher over one data set cost and change.

    Attributes:
        data, teacher: specs.
        device, precision: of the pass.
        num_samples: N.
        num_classes: C.
        pilot: what was measured.
        student: of the break-even number; None where it was not measured.
        costs: for every codec and number of views.
        fidelity: for every codec.
        notes: what could not be measured, and why.
    """

    data: str
    teacher: str
    device: str
    precision: str
    num_samples: int
    num_classes: int
    pilot: PilotTimes
    student: StudentTimes | None
    costs: tuple[StoreCost, ...]
    fidelity: tuple[Fidelity, ...]
    notes: tuple[str, ...] = ()
