"""Where a trainer's batches come from: the data set joined to the store, proved to agree, epoch by epoch."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from ..stores import BatchSampler, JoinedDataset, MismatchError, Store
from ..stores.codecs import TopK
from ..stores.reader import physical_memory
from ..stores.streaming import class_mixing
from .alignment import check_alignment
from .config import DistillConfig
from .data import Samples
from .data.samples import ArrayItems
from .groups import assign_groups
from .hardware import pick_workers
from .inputs import Batch, InputDataset, load_batches
from .losses import Objective, TeacherMass
from .store_statistics import teacher_masses
from .targets import (
    MappedTargets,
    Placement,
    ResidentTargets,
    Targets,
    arrays_for,
    no_targets,
    pick_placement,
)
from .views import Preprocessing

logger = logging.getLogger(__name__)

_WELL_MIXED = 0.9

ReadAhead = Callable[[Iterable[Batch], BatchSampler, int], Iterable[Batch]]


def _nothing_ahead(batches: Iterable[Batch], _: BatchSampler, __: int) -> Iterable[Batch]:
    return batches


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Where a trainer's batches come from.

    Attributes:
        dataset: inputs and labels.
        sampler: batches of indices into ``positions``.
        positions: (M,) positions in the data set.
        targets: what the teacher says of a batch.
        placement: where the store's arrays are kept: "gpu", "ram" or "mmap".
        ahead: given (batches, sampler, first batch), gives the batches and meanwhile brings what their targets need.
        class_groups: (C,) group of every class.
        temperatures: at which a store of the best classes only has logsumexps.
        teacher_mass: the teacher's masses over the store, at the temperatures that losses ask for.
        num_workers: reading processes.
    """

    dataset: InputDataset
    sampler: BatchSampler
    positions: np.ndarray
    targets: Targets
    class_groups: np.ndarray
    placement: Placement = "mmap"
    ahead: ReadAhead = _nothing_ahead
    temperatures: tuple[float, ...] = ()
    teacher_mass: Mapping[float, TeacherMass] = field(default_factory=dict)
    num_workers: int = 0

    @property
    def class_counts(self) -> np.ndarray:
        """(C,) samples of each class among those in use."""
        samples = self.dataset.samples
        return np.bincount(samples.labels[self.positions], minlength=samples.num_classes)

    def epoch(self, epoch: int, first_batch: int, *, pin_memory: bool) -> Iterator[Batch]:
        """The batches of an epoch, from ``first_batch`` on."""
        self.sampler.set_epoch(epoch)
        batches = (self.positions[indices].tolist() for indices in islice(self.sampler.arrays(), first_batch, None))
        loaded = load_batches(self.dataset, batches, num_workers=self.num_workers, pin_memory=pin_memory)
        return iter(self.ahead(loaded, self.sampler, first_batch))


def lay_out(
    config: DistillConfig,
    store: Store | None,
    samples: Samples,
    preprocessing: Preprocessing,
    objective: Objective,
    device: torch.device,
) -> TrainingData:
    """Join the data to the store, prove that they agree, and lay out the epochs.

    Raises:
        MismatchError: data and store disagree, and the configuration does not allow that.
        MissingArrayError: the store lacks an array that a loss needs.
    """
    dataset = InputDataset(samples, preprocessing)
    decodes = not isinstance(samples.items, ArrayItems)
    workers = pick_workers(decodes) if config.workers is None else config.workers
    positions = np.arange(len(samples))
    if store is None:
        groups, _ = assign_groups(config.groups, samples.class_counts, samples.class_names)
        sampler = _sampler(config, positions, len(positions), "random")
        return TrainingData(
            dataset=dataset, sampler=sampler, positions=positions, targets=no_targets, class_groups=groups,
            num_workers=workers,
        )  # fmt: skip
    joined = store.join(dataset, samples.sample_ids)
    _report_left_out(store, samples, len(joined))
    try:
        check_alignment(store, samples, joined, preprocessing)
    except MismatchError as mismatch:
        if config.allow_mismatch is None:
            raise MismatchError(f"{mismatch} To go on all the same: --allow-mismatch REASON.") from None
        logger.warning("going on in spite of a mismatch (%s): %s", config.allow_mismatch, mismatch)
    arrays, codec = arrays_for(store, objective), store.manifest.logit_codec
    targets, placement, ahead = _targets(config, store, joined, arrays, len(samples), device)
    sampler = _sampler(config, joined.rows, store.manifest.chunk_rows, _order(config, store, arrays))
    _report_mixing(store, sampler, samples.labels[joined.positions])
    return TrainingData(
        dataset=dataset,
        sampler=sampler,
        positions=joined.positions,
        targets=targets,
        placement=placement,
        ahead=ahead,
        class_groups=store.class_groups,
        temperatures=codec.temperatures if isinstance(codec, TopK) else (),
        teacher_mass=teacher_masses(store, joined.rows, objective.mass_temperatures),
        num_workers=workers,
    )


def _targets(
    config: DistillConfig,
    store: Store,
    joined: JoinedDataset,
    arrays: list[str],
    num_positions: int,
    device: torch.device,
) -> tuple[Targets, Placement, ReadAhead]:
    if not arrays:
        return no_targets, "mmap", _nothing_ahead
    placement = pick_placement(config.placement, store, arrays, len(joined), device)
    if placement == "mmap":
        mapped = MappedTargets(store, joined, arrays, num_positions, device=device)
        return mapped, placement, mapped.ahead
    kept_on = device if placement == "gpu" else torch.device("cpu")
    resident = ResidentTargets(store, joined, arrays, num_positions, kept_on=kept_on, device=device)
    return resident, placement, _nothing_ahead


def _sampler(config: DistillConfig, rows: np.ndarray, chunk_rows: int, order: str) -> BatchSampler:
    batch_size = min(config.batch_size, len(rows))
    return BatchSampler(rows, chunk_rows, batch_size, order=order, seed=config.seed, drop_last=True)


def _order(config: DistillConfig, store: Store, arrays: list[str]) -> str:
    """``random`` where what is streamed fits in half of the memory and is here, else ``chunks``."""
    if config.order != "auto":
        return config.order
    if store.remote:  # the student begins when the first window is here; all chunks would have to be for a random one
        return "chunks"
    row_bytes = sum(store.require(name).row_bytes for name in arrays)
    return "random" if 2 * row_bytes * len(store) <= physical_memory() else "chunks"


def _report_left_out(store: Store, samples: Samples, num_joined: int) -> None:
    if num_joined < len(samples):
        logger.warning(
            "%d of %d samples are not in %s and are left out.", len(samples) - num_joined, len(samples), store
        )


def _report_mixing(store: Store, sampler: BatchSampler, labels: np.ndarray) -> None:
    """Warn where streaming by chunks meets rows that are sorted by label."""
    if sampler.order != "chunks" or (mixing := class_mixing(sampler, labels)) >= _WELL_MIXED:
        return
    logger.warning(
        "%s is sorted by label: batches streamed by chunks hold %.0f %% of the classes that shuffled ones would. "
        "Extract with --order shuffled, or train with --order random.", store, 100 * mixing,
    )  # fmt: skip
