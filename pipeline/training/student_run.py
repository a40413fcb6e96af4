"""One student's run: the network and its trainer, the folder, and what is written into it as training goes on."""

import resource
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import pyarrow as pa
import torch
from torch import Tensor

from ... import __version__
from ...stores import RefusedError, Store
from ...stores.accuracy import AccuracyTally
from ...stores.arrays import GROUP_NAMES
from ...stores.manifest import fingerprint
from ...stores.remote.location import Location
from ..config import DistillConfig
from ..data import Samples
from ..hardware import pick_precision
from ..losses import Objective
from ..model_card import ModelCard
from ..models import load_model, parameter_count
from ..specs import Spec
from ..teachers import num_channels
from ..views import Preprocessing
from .followed_folder import open_folder
from .randomness import random_state
from .run_folder import EventWriter
from .trainer import Trainer
from .training_data import TrainingData


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What students who are trained side by side share.

    Attributes:
        store: the store, or None.
        samples: the data set.
        preprocessing: from raw inputs to a student's inputs.
        device: where they train.
    """

    store: Store | None
    samples: Samples
    preprocessing: Preprocessing
    device: torch.device


class StudentRun:
    """A run that is begun, or gone on with from its last checkpoint.

    Args:
        config: of this student.
        surroundings: what it shares with others.
        data: its batches.
        objective: what it minimises.
        hidden: targets of other students.

    Raises:
        KdpipeError: the student cannot be built.
        MismatchError: a run with another configuration is in its folder.
        RefusedError: something else is there, or there is no checkpoint where one is insisted on.
        BusyError: another process trains it.
    """

    def __init__(
        self,
        config: DistillConfig,
        surroundings: Surroundings,
        data: TrainingData,
        objective: Objective,
        hidden: frozenset[str],
    ) -> None:
        self.config, self._surroundings = config, surroundings
        device, samples = surroundings.device, surroundings.samples
        precision = pick_precision(config.precision, device, on_gpu="bf16")
        torch.manual_seed(config.seed)
        student = load_model(
            Spec.parse(config.student),
            num_classes=samples.num_classes,
            in_channels=num_channels(samples, surroundings.preprocessing),
            student=True,
        ).module
        self.trainer = Trainer(
            student.to(device), data, objective, config.optimiser,
            epochs=config.epochs, device=device, precision=precision, ema=config.ema, hidden=hidden,
        )  # fmt: skip
        resolved = _resolved(config, surroundings.store, data, device, precision)
        self.folder = open_folder(config.out, resolved, data.ranks)
        with ExitStack() as at_an_error:
            at_an_error.callback(self.close)
            if config.resume and not self.folder.begun:
                raise RefusedError(f"{config.out} has no checkpoint to go on from. Leave --resume out to begin.")
            if not self.folder.begun and data.ranks.first:
                objective.report_warm_up(config.epochs)
            self.records: list[dict[str, Any]] = []
            self.data_random: list[Tensor] | None = None
            self._restore()
            self._saved, self._saved_at = self.trainer.position, time.monotonic()
            self._events = EventWriter(config.out) if config.tensorboard and data.ranks.first else None
            at_an_error.pop_all()

    def close(self) -> None:
        """Let other processes have the folder."""
        self.folder.close()

    @property
    def trained(self) -> bool:
        """Whether the last epoch is done."""
        return self.trainer.epoch >= self.config.epochs

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        waited = time.monotonic() - self._saved_at
        return self.trainer.position != self._saved and waited >= self.config.checkpoint_seconds

    def validates(self, until: int | None) -> bool:
        """Whether the epoch that ended is one to validate after; the one before ``until`` always is."""
        done = self.trainer.epoch
        return done % self.config.val_every == 0 or done in (self.config.epochs, until)

    def end_epoch(self, record: dict[str, Any], tally: AccuracyTally | None) -> dict[str, Any]:
        """Write what an epoch gave, and a checkpoint; returns the epoch's metrics.

        Args:
            record: its losses, learning rate and speed.
            tally: its validation.
        """
        if tally is not None:
            accuracy = tally.accuracy(self.trainer.data.class_groups)
            record = record | {f"val_{name}": value for name, value in asdict(accuracy).items()}
            self.folder.write_classes(self._classes(tally))
        self.records.append(record)
        self.folder.write_metrics(self.records)
        self.save()
        if self._events is not None:
            self._events.write(record)
        return record

    def save(self) -> None:
        """Write a checkpoint; ask the trainer first whether the training has diverged."""
        trainer = self.trainer
        step = trainer.epoch * len(trainer.data.sampler) + trainer.batch
        store = self._surroundings.store
        state = {
            "store_id": None if store is None else store.manifest.store_id,
            "trainer": trainer.state(),
            "records": msgspec.json.encode(self.records).decode(),
            "data_random": random_state(trainer.device),
        }
        self.folder.save_checkpoint(step, state)
        self._saved, self._saved_at = trainer.position, time.monotonic()

    def finish(self) -> dict[str, Any]:
        """Write the student and the summary: from here on the run is finished."""
        if self.trainer.data.ranks.first:
            self._card().save(self.trainer.module, self.folder.student)
        summary = self.summary()
        self.folder.write_summary(summary)
        return summary

    def summary(self, until: int | None = None) -> dict[str, Any]:
        """The last epoch's figures (not the best one's: nothing is chosen on the validation set), costs and origin.

        Args:
            until: as if there were no epochs from this one on.
        """
        config, store, records = self.config, self._surroundings.store, self.records[:until]
        last = records[-1]
        return {
            "student": config.student,
            "loss": list(config.loss),
            "epochs": config.epochs,
            "seed": config.seed,
            "val": {name.removeprefix("val_"): value for name, value in last.items() if name.startswith("val_")}
            or None,
            "train_loss": last["loss"],
            "placement": self.trainer.data.placement if store else None,
            "num_parameters": parameter_count(self.trainer.student),
            "seconds": sum(record["seconds"] for record in records),
            "images_per_second": last["images_per_second"],
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "store_id": store.manifest.store_id if store else None,
            "store_content": store.manifest.receipts if store else None,
            "allow_mismatch": config.allow_mismatch,
        }

    def _restore(self) -> None:
        if self.folder.summary is not None or (state := self.folder.load_checkpoint()) is None:
            return
        self.trainer.restore(state["trainer"])
        self.records = msgspec.json.decode(state["records"])
        self.data_random = list(state["data_random"])

    def _classes(self, tally: AccuracyTally) -> pa.Table:
        """The last validation, class by class."""
        names, data = self._surroundings.samples.class_names, self.trainer.data
        return pa.table(
            {
                "class_id": pa.array(range(len(names)), pa.int32()),
                "name": pa.array(names, pa.string()),
                "train_count": pa.array(data.class_counts, pa.int64()),
                "group": pa.array([GROUP_NAMES[group] for group in data.class_groups], pa.string()),
                "val_count": pa.array(tally.totals, pa.int64()),
                "val_correct": pa.array(tally.correct, pa.int64()),
            }
        )

    def _card(self) -> ModelCard:
        _, without_weights = Spec.parse(self.config.student).take("weights")
        store = self._surroundings.store
        return ModelCard(
            model=without_weights.public(),
            num_classes=self._surroundings.samples.num_classes,
            classes=fingerprint(self._surroundings.samples.class_names),
            preprocessing=self._surroundings.preprocessing,
            store_id=None if store is None else store.manifest.store_id,
        )


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
        "store_views": store.manifest.num_views if store else None,  # why its content may have changed
        "kdpipe": __version__,
    }
    return {**body, **optimiser, "resolved": resolved}
