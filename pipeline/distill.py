"""Stage 2: train a student from a store; the teacher is never loaded.

store + data set -> joined by sample id -> proof of alignment -> student, losses -> training -> student.safetensors
"""

import logging
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import torch

from .. import __version__
from ..stores import Accuracy, MismatchError, RefusedError, Store, UsageError, open_store
from ..stores.manifest import fingerprint
from ..stores.remote.cache import parse_size
from ..stores.remote.location import Location
from .config import DistillConfig
from .data import Samples, load_data
from .hardware import keep_large_buffers, pick_device, pick_precision
from .inputs import InputDataset
from .losses import Objective
from .model_card import ModelCard
from .models import load_model, parameter_count
from .run_folder import EventWriter, RunFolder
from .specs import Spec
from .teachers import num_channels
from .training import Trainer, evaluate
from .training_data import TrainingData, lay_out
from .views import Preprocessing

logger = logging.getLogger(__name__)


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
    if device.type == "cpu":
        keep_large_buffers()
    precision = pick_precision(config.precision, device, on_gpu="bf16")
    store = _open_store(config, objective)
    samples = load_data(_data_spec(config, store))
    preprocessing = _preprocessing(config, store)
    data = lay_out(config, store, samples, preprocessing, objective, device)
    validate = _validation(config, samples, data, device, precision)
    torch.manual_seed(config.seed)
    channels = num_channels(samples, preprocessing)
    student = load_model(
        Spec.parse(config.student), num_classes=samples.num_classes, in_channels=channels, student=True
    ).module
    trainer = Trainer(
        student.to(device), data, objective, config.optimiser,
        epochs=config.epochs, device=device, precision=precision, ema=config.ema,
    )  # fmt: skip
    folder = RunFolder.open(config.out, _resolved(config, store, data, device, precision))
    if folder.summary is not None:
        return DistillResult(summary=folder.summary, trained=False)

    if config.resume and not folder.begun:
        raise RefusedError(f"{config.out} has no checkpoint to go on from. Leave --resume out to begin.")
    started = time.perf_counter()
    records = _train(config, trainer, folder, validate, on_epoch)
    _card(config, samples, preprocessing, store).save(trainer.module, folder.student)
    summary = _summary(config, store, trainer, records, time.perf_counter() - started)
    folder.write_summary(summary)
    return DistillResult(summary=summary, trained=True)


def _open_store(config: DistillConfig, objective: Objective) -> Store | None:
    if config.store is not None:
        cache_bytes = parse_size(config.cache_size)
        return open_store(config.store, verify=config.verify, cache=config.cache, cache_bytes=cache_bytes)
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


def _resolved(
    config: DistillConfig, store: Store | None, data: TrainingData, device: torch.device, precision: str
) -> dict[str, Any]:
    """The configuration with everything automatic decided, for the record and for resuming."""
    body = msgspec.to_builtins(asdict(config), enc_hook=str)
    if config.store is not None:
        body["store"] = str(Location.parse(config.store))  # without what is secret in an address
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
        trainer.check()
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
        "placement": trainer.data.placement if store else None,
        "num_parameters": parameter_count(trainer.student),
        "seconds": seconds,
        "images_per_second": last["images_per_second"],
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "store_id": store.manifest.store_id if store else None,
        "store_content": store.manifest.receipts if store else None,
        "allow_mismatch": config.allow_mismatch,
    }
