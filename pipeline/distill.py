"""Stage 2: train a student from a store; the teacher is never loaded.

store + data set -> joined by sample id -> proof of alignment -> student, losses -> training -> student.safetensors
"""

import logging
import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from .. import __version__
from ..stores import Accuracy, BatchSampler, MismatchError, Store, UsageError, open_store
from ..stores.manifest import fingerprint
from ..stores.streaming import class_mixing
from .alignment import check_alignment
from .data import Samples, load_data
from .data.samples import ArrayItems
from .groups import assign_groups
from .hardware import Precision, pick_device, pick_precision, pick_workers
from .inputs import InputDataset
from .losses import Objective
from .model_card import ModelCard
from .models import load_model, parameter_count
from .optimisation import OptimiserConfig
from .run_folder import EventWriter, RunFolder
from .specs import Spec
from .targets import StoreTargets, no_targets, store_group_mass
from .teachers import num_channels
from .training import Trainer, TrainingData, evaluate
from .views import Preprocessing

logger = logging.getLogger(__name__)

_WELL_MIXED = 0.9


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Everything a training run is asked for; the command line's flags by the same names.

    Attributes:
        student: model spec.
        out: folder of the run.
        store: folder of the store; not needed where no loss asks for the teacher.
        data: data spec; by default the one the store was made from.
        val: data spec to validate on.
        loss: loss specs, summed.
        ce_weight: weight of cross-entropy; 1 by default.
        epochs: passes over the data.
        batch_size: samples of a step.
        optimiser: optimizer, learning rate and schedule.
        ema: decay of the weights' moving average; none by default.
        seed: of the first weights, the order and dropout.
        order: of the samples: ``random``, ``chunks``, or ``auto``: random where the arrays fit in half the memory.
        preprocess: by default the store's.
        groups: rule of the class groups where there is no store.
        device: torch device, or ``auto``.
        precision: of the training; ``auto`` is bf16 autocast on a GPU.
        workers: reading processes.
        val_every: validate after so many epochs, and after the last.
        checkpoint_seconds: write a checkpoint when so much time has passed, and after every epoch.
        tensorboard: also write TensorBoard events (extra).
        allow_mismatch: go on although data and store do not agree, for this reason, which is kept in the run.
    """

    student: str
    out: Path
    store: Path | None = None
    data: str | None = None
    val: str | None = None
    loss: tuple[str, ...] = ("ce",)
    ce_weight: float | None = None
    epochs: int = 30
    batch_size: int = 128
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    ema: float | None = None
    seed: int = 0
    order: Literal["auto", "random", "chunks"] = "auto"
    preprocess: str | None = None
    groups: str = "thirds"
    device: str = "auto"
    precision: Precision = "auto"
    workers: int | None = None
    val_every: int = 1
    checkpoint_seconds: float = 600.0
    tensorboard: bool = False
    allow_mismatch: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "val_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UsageError(f"--ema is {self.ema}; it must be between 0 and 1.")
        if self.store is None and self.data is None:
            raise UsageError("Give --store STORE, or --data SPEC with --loss ce.")


@dataclass(frozen=True, kw_only=True)
class DistillResult:
    """What a training run gives.

    Attributes:
        summary: as in ``summary.json``: validation accuracies (``val``), costs, origin.
        trained: False where the run was finished before.
    """

    summary: dict[str, Any]
    trained: bool


def distill(config: DistillConfig, on_epoch: Callable[[dict[str, Any]], None] = lambda _: None) -> DistillResult:
    """Train a student; go on where an earlier run was interrupted.

    Args:
        config: what to do.
        on_epoch: called with each epoch's metrics.

    Returns:
        The run's summary. A run that was finished before is left as it is.

    Raises:
        KdpipeError: see the classes in :mod:`kdpipe.stores.errors`.
    """
    objective = Objective.parse(config.loss, config.ce_weight)
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device, on_gpu="bf16")
    store = _open_store(config, objective)
    samples = load_data(_data_spec(config, store))
    preprocessing = _preprocessing(config, store)
    data = _training_data(config, store, samples, preprocessing, objective)
    validate = _validation(config, samples, data, device, precision)
    torch.manual_seed(config.seed)
    channels = num_channels(samples, preprocessing)
    student = load_model(Spec.parse(config.student), num_classes=samples.num_classes, in_channels=channels).module
    trainer = Trainer(
        student.to(device), data, objective, config.optimiser,
        epochs=config.epochs, device=device, precision=precision, ema=config.ema,
    )  # fmt: skip
    folder = RunFolder.open(config.out, _resolved(config, store, data, device, precision))
    if folder.summary is not None:
        return DistillResult(summary=folder.summary, trained=False)

    started = time.perf_counter()
    records = _train(config, trainer, folder, validate, on_epoch)
    _card(config, samples, preprocessing, store).save(trainer.module, folder.student)
    summary = _summary(config, store, trainer, records, time.perf_counter() - started)
    folder.write_summary(summary)
    return DistillResult(summary=summary, trained=True)


def _open_store(config: DistillConfig, objective: Objective) -> Store | None:
    if config.store is not None:
        return open_store(config.store)
    if objective.needs:
        needing = ", ".join(loss.name for loss in objective.losses if loss.needs)
        raise UsageError(f"The loss {needing} needs a teacher's store. Give --store STORE.")
    return None


def _data_spec(config: DistillConfig, store: Store | None) -> str:
    if config.data is not None:
        return config.data
    recorded = store.manifest.dataset.spec if store else ""
    if Spec.parse(recorded).name == "python":
        raise UsageError(
            f"The store names the data '{recorded}', which would run code. If you trust it, give it as --data."
        )
    return recorded


def _preprocessing(config: DistillConfig, store: Store | None) -> Preprocessing:
    if config.preprocess is not None:
        return Preprocessing.parse(config.preprocess)
    if store is not None:
        return Preprocessing.from_dict(store.manifest.preprocessing)
    return Preprocessing(channels=3) if config.student.startswith("torchvision:") else Preprocessing()


def _training_data(
    config: DistillConfig, store: Store | None, samples: Samples, preprocessing: Preprocessing, objective: Objective
) -> TrainingData:
    """Join the data to the store, prove that they agree, and lay out the epochs."""
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
            raise
        logger.warning("going on in spite of a mismatch (%s): %s", config.allow_mismatch, mismatch)
    targets = StoreTargets(store, joined, objective, len(samples))
    temperature = objective.group_mass_temperature
    sampler = _sampler(config, joined.rows, store.manifest.chunk_rows, _order(config, store, objective))
    _report_mixing(store, sampler, samples.labels[joined.positions])
    return TrainingData(
        dataset=dataset,
        sampler=sampler,
        positions=joined.positions,
        targets=targets,
        class_groups=store.class_groups,
        group_mass=None if temperature is None else store_group_mass(store, temperature, joined.rows),
        num_workers=workers,
    )


def _sampler(config: DistillConfig, rows: np.ndarray, chunk_rows: int, order: str) -> BatchSampler:
    batch_size = min(config.batch_size, len(rows))
    return BatchSampler(rows, chunk_rows, batch_size, order=order, seed=config.seed, drop_last=True)


def _order(config: DistillConfig, store: Store, objective: Objective) -> str:
    """``random`` where what is streamed fits in half of the memory, else ``chunks``."""
    if config.order != "auto":
        return config.order
    row_bytes = sum(store.require(name).row_bytes for name in objective.needs)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return "random" if 2 * row_bytes * len(store) <= memory else "chunks"


def _report_left_out(store: Store, samples: Samples, num_joined: int) -> None:
    if num_joined < len(samples):
        logger.warning(
            "%d of %d samples are not in %s and are left out.", len(samples) - num_joined, len(samples), store.path
        )


def _report_mixing(store: Store, sampler: BatchSampler, labels: np.ndarray) -> None:
    """Warn where streaming by chunks meets rows that are sorted by label."""
    if sampler.order != "chunks" or (mixing := class_mixing(sampler, labels)) >= _WELL_MIXED:
        return
    logger.warning(
        "%s is sorted by label: batches streamed by chunks hold %.0f %% of the classes that shuffled ones would. "
        "Extract with --order shuffled, or train with --order random.", store.path, 100 * mixing,
    )  # fmt: skip


def _resolved(
    config: DistillConfig, store: Store | None, data: TrainingData, device: torch.device, precision: str
) -> dict[str, Any]:
    """The configuration with everything automatic decided, for the record and for resuming."""
    body = msgspec.to_builtins(asdict(config), enc_hook=str)
    optimiser = body.pop("optimiser")
    resolved = {
        "order": data.sampler.order,
        "precision": precision,
        "device": device.type,
        "store_id": store.manifest.store_id if store else None,
        "store_content": store.manifest.receipts if store else None,
        "kdpipe": __version__,
    }
    return {**body, **optimiser, "resolved": resolved}


def _validation(
    config: DistillConfig, samples: Samples, data: TrainingData, device: torch.device, precision: str
) -> Callable[[Trainer], Accuracy] | None:
    """How to validate, or None without a validation set.

    Raises:
        MismatchError: its classes are not those of the training data.
    """
    if config.val is None:
        return None
    held_out = load_data(config.val)
    if held_out.class_names != samples.class_names:
        raise MismatchError(f"The classes of --val '{config.val}' are not those of '{samples.spec}', in that order.")
    dataset = InputDataset(held_out, data.dataset.preprocessing)

    def validate(trainer: Trainer) -> Accuracy:
        return evaluate(
            trainer.module, dataset, data.class_groups,
            batch_size=2 * config.batch_size, device=device, precision=precision, num_workers=data.num_workers,
        )  # fmt: skip

    return validate


def _train(
    config: DistillConfig,
    trainer: Trainer,
    folder: RunFolder,
    validate: Callable[[Trainer], Accuracy] | None,
    on_epoch: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Train to the last epoch, from the last checkpoint if there is one; returns the epochs' metrics."""
    records: list[dict[str, Any]] = []
    state = folder.load_checkpoint()
    if state is not None:
        trainer.restore(state["trainer"])
        records = msgspec.json.decode(state["records"])
    saved = time.monotonic()

    def save() -> None:
        nonlocal saved
        step = trainer.epoch * len(trainer.data.sampler) + trainer.batch
        folder.save_checkpoint(step, {"trainer": trainer.state(), "records": msgspec.json.encode(records).decode()})
        saved = time.monotonic()

    def save_when_due() -> None:
        if time.monotonic() - saved >= config.checkpoint_seconds:
            save()

    events = EventWriter(folder.root) if config.tensorboard else None
    while trainer.epoch < config.epochs:
        epoch = trainer.epoch
        record = {"epoch": epoch, **trainer.run_epoch(save_when_due)}
        if validate is not None and (trainer.epoch % config.val_every == 0 or trainer.epoch == config.epochs):
            record |= {f"val_{name}": value for name, value in asdict(validate(trainer)).items()}
        records.append(record)
        folder.write_metrics(records)
        save()
        if events is not None:
            events.write(record)
        on_epoch(record)
    return records


def _card(config: DistillConfig, samples: Samples, preprocessing: Preprocessing, store: Store | None) -> ModelCard:
    _, without_weights = Spec.parse(config.student).take("weights")
    return ModelCard(
        model=without_weights.public(),
        num_classes=samples.num_classes,
        classes=fingerprint(samples.class_names),
        preprocessing=preprocessing,
        store_id=None if store is None else store.manifest.store_id,
    )


def _summary(
    config: DistillConfig, store: Store | None, trainer: Trainer, records: list[dict[str, Any]], seconds: float
) -> dict[str, Any]:
    """The last epoch's figures (not the best one's: nothing is chosen on the validation set), costs and origin."""
    last = records[-1]
    return {
        "student": config.student,
        "loss": list(config.loss),
        "epochs": config.epochs,
        "seed": config.seed,
        "val": {name.removeprefix("val_"): value for name, value in last.items() if name.startswith("val_")} or None,
        "train_loss": last["loss"],
        "num_parameters": parameter_count(trainer.student),
        "seconds": seconds,
        "images_per_second": last["images_per_second"],
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "store_id": store.manifest.store_id if store else None,
        "store_content": store.manifest.receipts if store else None,
        "allow_mismatch": config.allow_mismatch,
    }
