"""The training loop: students side by side on batches that are read, decoded and gathered once.

A student alone is a cohort of one. What a student ends with does not depend on who is beside it: weights, optimizer,
schedule and random numbers are its own, and it is given its own copy of the inputs.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ...stores.accuracy import AccuracyTally
from ..inputs import Batch, InputDataset, load_batches
from ..ranks import Ranks
from ..tensors import each
from .failures import Failures
from .parallel import add_up
from .randomness import RandomSequence
from .trainer import Trainer


class Cohort:
    """Trains students on the same data, in the same order.

    They may stand at different places, as after a kill: the one that is least far is trained alone until it has caught
    up. One that raises an exception is taken out and the others go on. What the data raises is everybody's, and is
    raised.

    Args:
        trainers: the students by number, with the same ``data`` and ``device``.
        failures: where the exceptions of students go; a student that is in there is not trained.
        until: stop before this epoch, if that is before a student's last.
    """

    def __init__(self, trainers: Mapping[int, Trainer], failures: Failures, *, until: int | None = None) -> None:
        self._trainers, self._failures, self._until = trainers, failures, until

    @property
    def active(self) -> list[int]:
        """The students that have epochs left."""
        return [i for i, trainer in self._trainers.items() if i not in self._failures and self._has_epochs(trainer)]

    def run_epoch(self, after_step: Callable[[], None] = lambda: None) -> dict[int, dict[str, float]]:
        """Train those who are least far, and those in the same epoch, to its end.

        Args:
            after_step: called after every batch.

        Returns:
            By student: the epoch's number, mean losses, learning rate and speed.
        """
        epoch, first = min(self._trainers[i].position for i in self.active)
        here = [i for i in self.active if self._trainers[i].epoch == epoch]
        for i in here:
            self._trainers[i].student.train()
        data, device = self._trainers[here[0]].data, self._trainers[here[0]].device
        marked = time.perf_counter()
        for number, batch in enumerate(data.epoch(epoch, first, pin_memory=device.type == "cuda"), first):
            batch = batch.to(device)
            due = [i for i in here if i not in self._failures and self._trainers[i].batch == number]
            self._step(due, batch, data.targets(batch), marked)
            after_step()
            marked = time.perf_counter()
            if all(i in self._failures for i in here):
                break
        ended = self._failures.each({i: self._trainers[i] for i in here}, lambda _, trainer: trainer.end_epoch())
        return {i: {"epoch": epoch, **record} for i, record in ended.items()}

    def evaluate(
        self, dataset: InputDataset, which: Sequence[int], *, batch_size: int, num_workers: int = 0
    ) -> dict[int, AccuracyTally]:
        """Count the correct predictions of some students over a whole data set, which is read once."""
        tallies = {i: AccuracyTally(dataset.samples.num_classes) for i in which}
        starts = range(0, len(dataset), batch_size)
        batches = [list(range(start, min(start + batch_size, len(dataset)))) for start in starts]
        ranks = Ranks.from_environment()
        # what data draw while they are looked at does not move on what they draw in training
        aside = RandomSequence(torch.device("cpu"))
        with _evaluating([self._trainers[i].module for i in which]), aside.drawn():
            for batch in load_batches(dataset, ranks.share(batches) if which else [], num_workers=num_workers):
                self._failures.each(tallies, partial(self._count, batch))
        for i, tally in tallies.items():
            if not ranks.alone:
                add_up(tally, self._trainers[i].device)
        return {i: tally for i, tally in tallies.items() if i not in self._failures}

    def _has_epochs(self, trainer: Trainer) -> bool:
        return trainer.epoch < (trainer.epochs if self._until is None else min(self._until, trainer.epochs))

    def _step(self, due: Sequence[int], batch: Batch, targets: dict[str, Tensor], marked: float) -> None:
        """One batch for all who are to take it; ``marked`` is when reading it began."""
        shared_seconds = (time.perf_counter() - marked) / max(len(due), 1)
        for i in due:
            # a network may change its inputs in place: not those of the others
            own = batch if len(due) == 1 else replace(batch, inputs=each(batch.inputs, Tensor.clone))
            self._failures.attempt(i, partial(self._trainers[i].step, own, targets, shared_seconds=shared_seconds))

    def _count(self, batch: Batch, i: int, tally: AccuracyTally) -> None:
        device = self._trainers[i].device
        predictions = self._trainers[i].predict(each(batch.inputs, lambda tensor: tensor.to(device, copy=True)))
        tally.add(batch.labels.numpy(), predictions.cpu().numpy())


@contextmanager
def _evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Networks in evaluation mode, without gradients; every part is left in the mode it was in."""
    modes = {part: part.training for module in modules for part in module.modules()}
    for module in modules:
        module.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, training in modes.items():
            part.training = training
