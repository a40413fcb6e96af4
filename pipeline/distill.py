"""Stage 2: train students from a store; the teacher is never loaded.

store + data set -> joined by sample id -> proof of alignment -> students, losses -> training -> student.safetensors
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields
from typing import Any

import torch

from ..stores import KdpipeError, MismatchError, Store, UsageError, open_store
from ..stores.differences import told_class_differences
from ..stores.remote.cache import parse_size
from .config import DistillConfig
from .data import Samples, load_data
from .hardware import keep_large_buffers, pick_device
from .inputs import InputDataset
from .losses import Objective
from .ranks import Ranks
from .specs import Spec
from .training.cohort import Cohort
from .training.failures import Failures
from .training.parallel import process_group
from .training.randomness import set_random_state
from .training.student_run import StudentRun, Surroundings
from .training.targets import arrays_for
from .training.training_data import lay_out
from .views import Preprocessing

logger = logging.getLogger(__name__)

# of torchvision's data sets: others may unpickle what lies beside the images, these only files of known checksums
_PLAIN_DATASETS = frozenset(
    [
        "CIFAR10",
        "CIFAR100",
        "DTD",
        "FashionMNIST",
        "Flowers102",
        "Food101",
        "ImageFolder",
        "KMNIST",
        "MNIST",
        "STL10",
        "SVHN",
    ]
)

# what is a student's own; whatever else a configuration says is shared by those who are trained side by side
_OWN = frozenset(
    {
        "student", "out", "loss", "ce_weight", "epochs", "optimiser", "ema", "seed", "data_seed", "precision",
        "val_every", "checkpoint_seconds", "resume", "tensorboard",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DistillResult:
    """What a training run gives.

    Attributes:
        summary: as in ``summary.json``: validation accuracies (``val``), costs, origin; of a run that has epochs left,
            the figures so far.
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
    [outcome] = distill_cohort([config], lambda _, record: on_epoch(record))
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def shared_settings(config: DistillConfig) -> dict[str, Any]:
    """What the configurations of students must agree on to be trained side by side: data, order and store."""
    shared = {field.name: getattr(config, field.name) for field in fields(config) if field.name not in _OWN}
    preprocess = config.preprocess
    if preprocess is None and config.store is None and config.student.startswith("torchvision:"):
        preprocess = "image,channels=3"  # which these networks need
    return {**shared, "data_seed": config.order_seed, "preprocess": preprocess}


def distill_cohort(
    configs: Sequence[DistillConfig],
    on_epoch: Callable[[int, dict[str, Any]], None] = lambda _, __: None,
    *,
    until: int | None = None,
) -> list[DistillResult | Exception]:
    """Train students side by side: data are read, decoded and gathered once, and each ends as it would alone.

    Args:
        configs: of the students; they agree on all that :func:`shared_settings` names.
        on_epoch: called with a student's number and its epoch's metrics.
        until: stop before this epoch; the same call without it, or with a later one, goes on.

    Returns:
        For each student its result, or the exception that took it out.

    Raises:
        KdpipeError: what is shared cannot be had: the store, or the data.
    """
    _check_together(configs)
    ranks, device = Ranks.from_environment(), pick_device(configs[0].device)
    if len(configs) > 1 and not ranks.alone:
        raise UsageError("Students side by side are trained by one process. Run this without torchrun.")
    with process_group(ranks, device):
        return _distill_cohort(configs, on_epoch if ranks.first else lambda *_: None, until, device)


def _distill_cohort(
    configs: Sequence[DistillConfig],
    on_epoch: Callable[[int, dict[str, Any]], None],
    until: int | None,
    device: torch.device,
) -> list[DistillResult | Exception]:
    failures, config = Failures(), configs[0]
    if device.type == "cpu":
        keep_large_buffers()
    store = open_training_store(config)
    objectives = failures.each(dict(enumerate(configs)), lambda _, own: Objective.parse(own.loss, own.ce_weight))
    arrays = failures.each(objectives, lambda _, objective: arrays_needed(store, objective))
    if not arrays:
        return list(failures.values())
    samples = _training_samples(config, store)
    preprocessing = _preprocessing(config, store)
    data = lay_out(config, store, samples, preprocessing, [objectives[i] for i in arrays], device)
    around = Surroundings(store=store, samples=samples, preprocessing=data.dataset.preprocessing, device=device)
    held_out = _held_out(config, around)
    loaded = frozenset().union(*arrays.values())
    with ExitStack() as opened:
        runs = failures.each(
            arrays,
            lambda i, own: opened.enter_context(
                closing(StudentRun(configs[i], around, data, objectives[i], hidden=loaded - own))
            ),
        )
        summaries = {i: summary for i, run in runs.items() if (summary := run.folder.summary) is not None}
        outcomes = {i: DistillResult(summary=summary, trained=False) for i, summary in summaries.items()}
        unfinished = {i: run for i, run in runs.items() if i not in summaries}
        _train(unfinished, failures, held_out, on_epoch, until)
        for i, run in unfinished.items():
            if i not in failures:
                outcomes[i] = DistillResult(summary=run.finish() if run.trained else run.summary(until), trained=True)
    return [failures.get(i) or outcomes[i] for i in range(len(configs))]


def open_training_store(config: DistillConfig) -> Store | None:
    """The store that a student learns from; None where it has none."""
    if config.store is None:
        return None
    cache_bytes = parse_size(config.cache_size)
    return open_store(config.store, verify=config.verify, cache=config.cache, cache_bytes=cache_bytes)


def arrays_needed(store: Store | None, objective: Objective) -> frozenset[str]:
    """The arrays of the store that a student's losses read.

    Raises:
        MissingArrayError: the store lacks one.
        UsageError: there is no store, and a loss needs one.
    """
    if store is not None:
        return frozenset(arrays_for(store, objective))
    if objective.needs:
        needing = ", ".join(loss.name for loss in objective.losses if loss.needs)
        raise UsageError(f"The loss {needing} needs a teacher's store. Give --store STORE.")
    return frozenset()


def _check_together(configs: Sequence[DistillConfig]) -> None:
    first = shared_settings(configs[0])
    for config in configs[1:]:
        differing = sorted(name for name, value in shared_settings(config).items() if value != first[name])
        if differing:
            raise UsageError(f"Students who are trained side by side must agree on {', '.join(differing)}.")


def _training_samples(config: DistillConfig, store: Store | None) -> Samples:
    """The data set that is given, or the one that the store names."""
    if config.data is not None or store is None:
        return load_data(config.data or "")
    recorded = store.manifest.dataset.spec
    if not _is_harmless(Spec.parse(recorded)):
        raise UsageError(
            f"The store names the data '{recorded}', which may run code or fetch something. If you trust it, give it "
            "as --data."
        )
    try:
        return load_data(recorded)
    except KdpipeError as error:  # of which the advice is for those who typed the spec
        reason = str(error).partition(". ")[0].removesuffix(".")
        raise UsageError(
            f"The store names its data '{recorded}', which cannot be read from here ({reason}). Give --data SPEC."
        ) from None


def _is_harmless(spec: Spec) -> bool:
    """Whether reading these data does nothing but that, whoever wrote the spec."""
    if spec.name == "torchvision":
        return spec.location in _PLAIN_DATASETS and "download" not in spec.options
    return spec.name != "python"


def _preprocessing(config: DistillConfig, store: Store | None) -> Preprocessing:
    preprocess = shared_settings(config)["preprocess"]
    if preprocess is not None:
        return Preprocessing.parse(preprocess)
    return Preprocessing() if store is None else Preprocessing.from_dict(store.manifest.preprocessing)


def _held_out(config: DistillConfig, around: Surroundings) -> InputDataset | None:
    """The data to validate on, or None.

    Raises:
        MismatchError: its classes are not those of the training data.
    """
    if config.val is None:
        return None
    if config.val == around.samples.spec:
        logger.warning("--val is the training data itself: its accuracy says nothing of other samples.")
    held_out = load_data(config.val)
    if held_out.class_names != around.samples.class_names:
        places = ("in training", "in validation")
        differences = told_class_differences(around.samples.class_names, held_out.class_names, places)
        raise MismatchError(
            f"The classes of --val '{config.val}' are not those of '{around.samples.spec}': {differences}. Give data "
            "of the same classes in the same order; class_map=FILE in the spec gives others these (docs/reshape.md)."
        )
    return InputDataset(held_out, around.preprocessing)


def _train(
    runs: Mapping[int, StudentRun],
    failures: Failures,
    held_out: InputDataset | None,
    on_epoch: Callable[[int, dict[str, Any]], None],
    until: int | None,
) -> None:
    """Train to the last epoch, or to ``until``, each student from its last checkpoint if there is one."""
    if not runs:
        return
    behind = min(runs.values(), key=lambda run: run.trainer.position)
    _seed_the_data(behind)
    batch_size, num_workers = 2 * behind.config.batch_size, behind.trainer.data.num_workers
    cohort = Cohort({i: run.trainer for i, run in runs.items()}, failures, until=until)

    def save_when_due() -> None:
        for i, run in runs.items():
            if run.due and i in cohort.active:
                failures.attempt(i, run.trainer.check)
                if i not in failures:
                    run.save()

    while cohort.active:
        ended = cohort.run_epoch(save_when_due)
        tallies = {}
        if held_out is not None:
            which = [i for i in ended if runs[i].validates(until)]
            tallies = cohort.evaluate(held_out, which, batch_size=batch_size, num_workers=num_workers)
        for i, record in ended.items():
            if i not in failures:
                on_epoch(i, runs[i].end_epoch(record, tallies.get(i)))


def _seed_the_data(behind: StudentRun) -> None:
    """A data set that draws random numbers in this process goes on where the student that is least far left it."""
    if behind.data_random is None:
        torch.manual_seed(behind.config.order_seed)
    else:
        set_random_state(behind.data_random, behind.trainer.device)
