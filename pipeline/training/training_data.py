"""Where a trainer's batches come from: the data set joined to the store, proved to agree, epoch by epoch."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch

from ...stores import BatchSampler, JoinedDataset, MismatchError, Store, UsageError
from ...stores.codecs import TopK
from ...stores.groups import assign_groups
from ...stores.reader import physical_memory
from ...stores.streaming import class_mixing
from ..alignment import check_alignment
from ..augment import Augmentation
from ..config import DistillConfig
from ..data import Samples
from ..data.samples import ArrayItems
from ..hardware import pick_workers
from ..inputs import Batch, InputDataset, load_batches, store_inputs
from ..losses import Loss, Objective, TeacherMass
from ..losses.registry import needs_one_label
from ..ranks import Ranks
from ..views import Preprocessing
from .parallel import check_batch_size
from .store_statistics import teacher_masses
from .targets import (
    MappedTargets,
    Placement,
    ResidentTargets,
    Targets,
    arrays_for,
    no_targets,
    pick_placement,
    with_mixed_labels,
    with_partner_logits,
    with_view_logits,
)

logger = logging.getLogger(__name__)

_WELL_MIXED = 0.9

ReadAhead = Callable[[Iterable[Batch], BatchSampler, int, int], Iterable[Batch]]


def _nothing_ahead(batches: Iterable[Batch], _: BatchSampler, __: int, ___: int) -> Iterable[Batch]:
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
        num_views: V; epoch e reads view e mod V. None where each epoch has its own.
        ahead: given (batches, sampler, first batch, view), gives the batches and meanwhile brings what their targets
            need.
        class_groups: (C,) group of every class.
        temperatures: at which a store of the best classes only has logsumexps.
        teacher_mass: the teacher's masses over the store, at the temperatures that losses ask for.
        num_workers: reading processes.
        ranks: the process that this is: it is given its share of every batch.
    """

    dataset: InputDataset
    sampler: BatchSampler
    positions: np.ndarray
    targets: Targets
    class_groups: np.ndarray
    placement: Placement = "mmap"
    num_views: int | None = 1
    ahead: ReadAhead = _nothing_ahead
    temperatures: tuple[float, ...] = ()
    teacher_mass: Mapping[float, TeacherMass] = field(default_factory=dict)
    num_workers: int = 0
    ranks: Ranks = field(default_factory=Ranks.from_environment)

    @property
    def class_counts(self) -> np.ndarray:
        """(C,) samples of each class among those in use."""
        samples = self.dataset.samples
        return np.bincount(samples.labels[self.positions], minlength=samples.num_classes)

    def epoch(self, epoch: int, first_batch: int, *, pin_memory: bool) -> Iterator[Batch]:
        """The batches of an epoch, from ``first_batch`` on."""
        self.sampler.set_epoch(epoch)
        shares = map(self.ranks.share, islice(self.sampler.arrays(), first_batch, None))
        batches = (self.positions[indices].tolist() for indices in shares)
        view = epoch if self.num_views is None else epoch % self.num_views
        dataset = self.dataset.at_view(view)
        loaded = load_batches(dataset, batches, num_workers=self.num_workers, pin_memory=pin_memory)
        return iter(self.ahead(loaded, self.sampler, first_batch, view))


def lay_out(
    config: DistillConfig,
    store: Store | None,
    samples: Samples,
    preprocessing: Preprocessing,
    objectives: Sequence[Objective],
    device: torch.device,
) -> TrainingData:
    """Join the data to the store, prove that they agree, and lay out the epochs.

    Args:
        config: where the data are and how they are read; of a cohort, any student's.
        store: the store, if there is one.
        samples: the data set.
        preprocessing: how inputs are made.
        objectives: what is minimised, by each student: batches carry the targets of all.
        device: where batches are wanted.

    Raises:
        MismatchError: data and store disagree, and the configuration does not allow that.
        MissingArrayError: the store lacks an array that a loss needs.
        RefusedError: views are mixed of samples that the data lack.
        UsageError: the students would, each by itself, take the data in different orders; or the store has not so many
            views.
    """
    decodes = not isinstance(samples.items, ArrayItems)
    workers = pick_workers(decodes) if config.workers is None else config.workers
    losses = [loss for objective in objectives for loss in objective.losses]
    check_views(config, store, losses)
    if store is None:
        return _without_store(config, samples, preprocessing, workers, device)
    num_views = _num_views(config, store)
    joined = store.join(InputDataset(samples, preprocessing), samples.sample_ids)
    _report_left_out(store, samples, len(joined))
    inputs = store_inputs(store, samples, joined, preprocessing)
    try:
        check_alignment(store, inputs, joined, num_views)
    except MismatchError as mismatch:
        if config.allow_mismatch is None:
            raise MismatchError(f"{mismatch} To go on all the same: --allow-mismatch REASON.") from None
        logger.warning("going on in spite of a mismatch (%s): %s", config.allow_mismatch, mismatch)
    arrays = sorted(set().union(*(arrays_for(store, objective) for objective in objectives)))
    codec, temperatures = store.manifest.logit_codec, frozenset().union(*(o.mass_temperatures for o in objectives))
    students = _student_inputs(config, store, samples, joined, preprocessing)
    targets, placement, ahead = _targets(config, store, joined, arrays, len(samples), device)
    if num_views > 1 and any(loss.all_views for loss in losses):
        targets = with_view_logits(targets, store, joined, len(samples), num_views=num_views, device=device)
    if any(loss.mixes_targets for loss in losses):
        targets = with_partner_logits(targets, store, device)
    sampler = _sampler(config, joined.rows, store.manifest.chunk_rows, _one_order(config, store, objectives))
    _report_mixing(store, sampler, samples.labels[joined.positions])
    return TrainingData(
        dataset=students,
        sampler=sampler,
        positions=joined.positions,
        targets=with_mixed_labels(targets, device) if students.mixes else targets,
        placement=placement,
        num_views=num_views,
        ahead=ahead,
        class_groups=store.class_groups,
        temperatures=codec.temperatures if isinstance(codec, TopK) else (),
        teacher_mass=teacher_masses(store, joined.rows, temperatures),
        num_workers=workers,
    )


def _without_store(
    config: DistillConfig, samples: Samples, preprocessing: Preprocessing, workers: int, device: torch.device
) -> TrainingData:
    augmentation = None
    if config.augment is not None:
        augmentation = replace(Augmentation.parse(config.augment), seed=config.order_seed)
    dataset = InputDataset(samples, preprocessing, augmentation=augmentation)
    groups, _ = assign_groups(config.groups or "thirds", samples.class_counts, samples.class_names)
    positions = np.arange(len(samples))
    return TrainingData(
        dataset=dataset,
        sampler=_sampler(config, positions, len(positions), "random"),
        positions=positions,
        targets=with_mixed_labels(no_targets, device) if dataset.mixes else no_targets,
        num_views=None,
        class_groups=groups,
        num_workers=workers,
    )


def _student_inputs(
    config: DistillConfig, store: Store, samples: Samples, joined: JoinedDataset, preprocessing: Preprocessing
) -> InputDataset:
    inputs = store_inputs(store, samples, joined, preprocessing, mixup=config.mixup)
    return inputs if config.size is None else inputs.at_size(config.size)


def check_views(config: DistillConfig, store: Store | None, losses: Sequence[Loss]) -> None:
    """Refuse views that the store has not, and losses that cannot be had of them.

    Args:
        config: which views are asked for, and whether inputs are mixed for the student alone.
        store: what the teacher saw, if there is one.
        losses: all that are trained with.

    Raises:
        UsageError: the store has no such views; a loss takes the teacher's word for inputs that it has not seen; or
            inputs are mixed, and a loss needs one label for each.
    """
    if store is not None:
        _num_views(config, store)
        augmentation = Augmentation.of(store.manifest)
    else:
        augmentation = None if config.augment is None else Augmentation.parse(config.augment)
    mixes = augmentation is not None and augmentation.mixes
    if config.mixup is not None and mixes:
        raise UsageError("The views of this store are mixed, and its teacher has seen them so. Leave --mixup out.")
    for loss in losses:
        if loss.all_views and mixes:
            raise UsageError(f"The loss '{loss.name}' is over the views of one sample; these are mixed of two each.")
        if loss.mixes_targets and config.mixup is None:
            raise UsageError(
                f"The loss '{loss.name}' is for inputs that --mixup ALPHA mixes, from a store of augmented views "
                "(kdpipe extract --augment). Give that, or use kd."
            )
        if config.mixup is not None and loss.needs and not loss.mixes_targets:
            raise UsageError(
                f"The loss '{loss.name}' needs what the teacher says of its inputs, and it has not seen those that "
                "--mixup mixes. Use mixkd, or extract views with mixup=ALPHA."
            )
        if loss.one_label and (mixes or config.mixup is not None):
            raise needs_one_label(loss.name)


def _num_views(config: DistillConfig, store: Store) -> int:
    if store.manifest.augmentation is None:
        for name in ("views", "size", "mixup"):
            if getattr(config, name) is not None:
                raise UsageError(
                    f"--{name} is about augmented views, which {store} has not. Leave it out, or make a store that has "
                    "some: kdpipe extract --augment SPEC."
                )
        return 1
    there = store.manifest.num_views
    if config.views is not None and config.views > there:
        raise UsageError(
            f"--views is {config.views}, and {store} has {there}. Give no more, or add some: kdpipe extract --views."
        )
    return config.views or there


def pick_order(config: DistillConfig, store: Store | None, objective: Objective) -> str:
    """``random`` where what is streamed fits in half of the memory and is here, else ``chunks``.

    Raises:
        MissingArrayError: the store lacks an array that a loss needs.
    """
    arrays = [] if store is None else arrays_for(store, objective)
    if store is None or config.order != "auto":
        return "random" if store is None else config.order
    if store.remote:  # the student begins when the first window is here; all chunks would have to be for a random one
        return "chunks"
    row_bytes = sum(store.require(name).row_bytes for name in arrays)
    return "random" if 2 * row_bytes * len(store) <= physical_memory() else "chunks"


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
    check_batch_size(Ranks.from_environment(), batch_size)
    return BatchSampler(rows, chunk_rows, batch_size, order=order, seed=config.order_seed, drop_last=True)


def _one_order(config: DistillConfig, store: Store, objectives: Sequence[Objective]) -> str:
    order, *others = {pick_order(config, store, objective) for objective in objectives}
    if others:
        raise UsageError("These losses would read the store in different orders. Give --order random or chunks.")
    return order


def _report_left_out(store: Store, samples: Samples, num_joined: int) -> None:
    if num_joined < len(samples):
        logger.warning(
            "%d of %d samples are not in %s and are left out.", len(samples) - num_joined, len(samples), store
        )
    if num_joined < len(store):
        lacking = len(store) - num_joined
        logger.warning("%d of the %d samples of %s are not in the data and are left out.", lacking, len(store), store)


def _report_mixing(store: Store, sampler: BatchSampler, labels: np.ndarray) -> None:
    """Warn where streaming by chunks meets rows that are sorted by label."""
    if sampler.order != "chunks" or (mixing := class_mixing(sampler, labels)) >= _WELL_MIXED:
        return
    logger.warning(
        "%s is sorted by label: batches streamed by chunks hold %.0f %% of the classes that shuffled ones would. "
        "Extract with --order shuffled, or train with --order random.", store, 100 * mixing,
    )  # fmt: skip
