"""What the two stages are asked for; the command line's flags by the same names."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..stores.codecs import Factorised, parse_codec
from ..stores.errors import UsageError, unknown
from ..stores.remote.cache import parse_size
from .hardware import Precision
from .optimisation import OptimiserConfig


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Everything an extraction is asked for; the command line's flags by the same names.

    Attributes:
        data: data spec.
        teacher: model spec.
        out: folder of the store.
        preprocess: ``image,...``; by default what comes with the teacher.
        write: arrays to write.
        codec: how logits are stored, see :mod:`kdpipe.stores.codecs`; ``+zstd`` compresses all arrays.
        chunk_rows: rows of a chunk; by default 4096, fewer for very many classes.
        rank_depth: keep only so many of the best ranks; by default all.
        groups: rule of the class groups.
        order: of the rows: ``dataset``, or ``shuffled`` / ``shuffled:SEED``.
        device: torch device, or ``auto``.
        precision: of the teacher's pass.
        runtime: what runs the teacher: ``torch``; ``compile``, torch with ``torch.compile``; ``onnx``, onnxruntime
            (extra ``onnx``), often several times as fast on a CPU.
        batch_size: by default chosen from the input's size.
        workers: reading processes; by default one a core where images must be decoded.
        on_bad_sample: ``fail`` at a sample that cannot be read, or read all first and ``skip`` those.
        extractor, owner, licence, note: for the record.
    """

    data: str
    teacher: str
    out: Path
    preprocess: str | None = None
    write: tuple[Literal["logits", "ranks"], ...] = ("logits", "ranks")
    codec: str = "float16"
    chunk_rows: int | None = None
    rank_depth: int | None = None
    groups: str = "thirds"
    order: str = "dataset"
    device: str = "auto"
    precision: Precision = "auto"
    runtime: Literal["torch", "compile", "onnx"] = "torch"
    batch_size: int | None = None
    workers: int | None = None
    on_bad_sample: Literal["fail", "skip"] = "fail"
    extractor: str | None = None
    owner: str | None = None
    licence: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        _check_workers(self.workers)
        if self.runtime not in ("torch", "compile", "onnx"):
            raise unknown("runtime", self.runtime, ("torch", "compile", "onnx"))
        if isinstance(parse_codec(self.codec), Factorised) and self.runtime != "torch":
            raise UsageError("The codec 'factorised' needs the teacher's last layer as it is. Use --runtime torch.")
        for name in ("chunk_rows", "rank_depth", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', '-')} is {value}; it must be at least 1.")
        for name in self.write:
            if name not in ("logits", "ranks"):
                raise unknown("array to write", name, ("logits", "ranks"))
        if not self.write:
            raise UsageError("--write names nothing; give logits, ranks or both.")


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Everything a training run is asked for; the command line's flags by the same names.

    Attributes:
        student: model spec.
        out: folder of the run.
        store: folder or address of the store; not needed where no loss asks for the teacher.
        data: data spec; by default the one the store was made from.
        val: data spec to validate on.
        loss: loss specs, summed.
        ce_weight: weight of cross-entropy; 1 by default.
        epochs: passes over the data.
        batch_size: samples of a step.
        optimiser: optimizer, learning rate and schedule.
        ema: decay of the weights' moving average; none by default.
        seed: of the first weights, the order and dropout.
        order: of the samples: ``random``, ``chunks``, or ``auto``: random where the arrays are local and fit in half
            the memory.
        placement: where the teacher's arrays are kept: on the ``gpu``, in ``ram``, mapped from their files (``mmap``),
            or ``auto``: on the GPU where they take a quarter of its free memory at most, else mapped.
        preprocess: by default the store's.
        groups: rule of the class groups where there is no store.
        device: torch device, or ``auto``.
        precision: of the training; ``auto`` is bf16 autocast on a GPU.
        workers: reading processes.
        val_every: validate after so many epochs, and after the last.
        checkpoint_seconds: write a checkpoint when so much time has passed, and after every epoch.
        resume: insist on going on: refuse to start where there is no checkpoint. (Without it, a run that was
            interrupted is continued too.)
        tensorboard: also write TensorBoard events (extra).
        verify: compare every chunk of the store with its checksum before its first use.
        cache: folder in which the chunks of a remote store are kept; by default the user's cache folder.
        cache_size: how much it may hold, such as 20GB.
        allow_mismatch: go on although data and store do not agree, for this reason, which is kept in the run.
    """

    student: str
    out: Path
    store: Path | str | None = None
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
    placement: Literal["auto", "gpu", "ram", "mmap"] = "auto"
    preprocess: str | None = None
    groups: str = "thirds"
    device: str = "auto"
    precision: Precision = "auto"
    workers: int | None = None
    val_every: int = 1
    checkpoint_seconds: float = 600.0
    resume: bool = False
    tensorboard: bool = False
    verify: bool = False
    cache: Path | None = None
    cache_size: str = "20GB"
    allow_mismatch: str | None = None

    def __post_init__(self) -> None:
        _check_workers(self.workers)
        for name in ("epochs", "batch_size", "val_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UsageError(f"--ema is {self.ema}; it must be between 0 and 1.")
        parse_size(self.cache_size)
        if self.store is None and self.data is None:
            raise UsageError("Give --store STORE, or --data SPEC with --loss ce.")


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 0:
        raise UsageError(f"--workers is {workers}; it must be 0 or above, or auto.")
