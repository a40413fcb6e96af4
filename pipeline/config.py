"""What the two stages are asked for; the command line's flags by the same names."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..stores.codecs import Factorised, parse_codec
from ..stores.errors import UsageError, unknown
from ..stores.manifest import MAX_VIEWS, PAYLOAD_FORMATS, PayloadFormat
from ..stores.remote.cache import parse_size
from .augment import Augmentation
from .engines.actor_bounds import parse_actors
from .engines.chunk_range import parse_chunk_range
from .hardware import Precision
from .training.optimisation import OptimiserConfig


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Everything an extraction is asked for; the command line's flags by the same names.

    Attributes:
        data: data spec.
        teacher: model spec.
        out: folder of the store.
        preprocess: ``image,...``; by default what comes with the teacher.
        views: how many augmented views; a finished store that has fewer is given more.
        augment: how they are drawn, see :class:`kdpipe.pipeline.augment.Augmentation`; by default inputs are as they
            come.
        write: arrays to write.
        codec: how logits are stored, see :mod:`kdpipe.stores.codecs`; ``+zstd`` compresses all arrays.
        format: of the payload: ``zarr``; ``parquet``, rows as bytes; ``parquet-lists``, rows as lists of numbers.
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
        chunks: ``i/n``: make only the i-th of n equal ranges of the chunks; by default all.
        engine: ``local``, this process and others like it; ``ray``, actors on a Ray cluster.
        actors: ``min..max`` or a number, with Ray.
        extractor, owner, licence, note: for the record.
    """

    data: str
    teacher: str
    out: Path
    preprocess: str | None = None
    views: int = 1
    augment: str | None = None
    write: tuple[Literal["logits", "ranks"], ...] = ("logits", "ranks")
    codec: str = "float16"
    format: PayloadFormat = "zarr"
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
    chunks: str | None = None
    engine: Literal["local", "ray"] = "local"
    actors: str | None = None
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
        self._check_views()
        for name in ("views", "chunk_rows", "rank_depth", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name.replace('_', '-')} is {value}; it must be at least 1.")
        if self.format not in PAYLOAD_FORMATS:
            raise unknown("format", self.format, PAYLOAD_FORMATS)
        for name in self.write:
            if name not in ("logits", "ranks"):
                raise unknown("array to write", name, ("logits", "ranks"))
        self._check_engine()
        if not self.write:
            raise UsageError("--write names nothing; give logits, ranks or both.")

    def _check_engine(self) -> None:
        if self.engine not in ("local", "ray"):
            raise unknown("engine", self.engine, ("local", "ray"))
        if self.chunks is not None:
            parse_chunk_range(self.chunks)
        if self.chunks is not None and self.engine == "ray":
            raise UsageError("Ray gives out the chunks by itself. Leave out --chunks, or --engine ray.")
        if self.actors is not None and self.engine != "ray":
            raise UsageError("--actors is for Ray. Give --engine ray, too.")
        if self.actors is not None:
            parse_actors(self.actors, 1)

    def _check_views(self) -> None:
        if self.views > MAX_VIEWS:
            raise UsageError(f"--views is {self.views:,}; a store has at most {MAX_VIEWS:,}.")
        if self.augment is not None:
            Augmentation.parse(self.augment)
        elif self.views > 1:
            raise UsageError("Without --augment all views would be the same. Give one, such as rrc-flip,size=224.")


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
        seed: of the first weights and dropout, and of the order of the data where ``data_seed`` is not given.
        data_seed: of the order of the data; with one for several seeds, their students see the same batches.
        order: of the samples: ``random``, ``chunks``, or ``auto``: random where the arrays are local and fit in half
            the memory.
        views: how many of the store's augmented views to use; epoch e reads view e mod ``views``. By default all.
        size: side of augmented inputs in pixels, of which the crops stay the store's; by default the store's.
        mixup: alpha of a mixing of a store's views that its teacher has not seen, for the loss ``mixkd``.
        augment: how inputs are augmented where there is no store: epoch e draws view e, by the seed of the order.
        placement: where the teacher's arrays are kept: on the ``gpu``, in ``ram``, mapped from their files (``mmap``),
            or ``auto``: on the GPU where they take a quarter of its free memory at most, else mapped.
        preprocess: by default the store's.
        groups: rule of the class groups where there is no store; ``thirds`` by default.
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
    data_seed: int | None = None
    order: Literal["auto", "random", "chunks"] = "auto"
    views: int | None = None
    size: int | None = None
    mixup: float | None = None
    augment: str | None = None
    placement: Literal["auto", "gpu", "ram", "mmap"] = "auto"
    preprocess: str | None = None
    groups: str | None = None
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
        for name in ("epochs", "batch_size", "val_every", "views", "size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise UsageError(f"--ema is {self.ema}; it must be between 0 and 1.")
        parse_size(self.cache_size)
        if self.store is None and self.data is None:
            raise UsageError("Give --store STORE, or --data SPEC with --loss ce.")
        if self.store is not None and self.groups is not None:
            raise UsageError(
                "The store has the class groups. Leave --groups out here, or change them: kdpipe store regroup."
            )
        self._check_views()

    def _check_views(self) -> None:
        if self.store is None and (self.views, self.size, self.mixup) != (None, None, None):
            raise UsageError("--views, --size and --mixup are about a store's augmented views. Give --store STORE.")
        if self.augment is None:
            return
        if self.store is not None:
            raise UsageError(
                "With a store the student is given what its teacher saw. Leave --augment out here; give it to extract."
            )
        if Augmentation.parse(self.augment).seed:
            raise UsageError("Without a store the views follow --seed, or --data-seed. Leave seed= out of --augment.")

    @property
    def order_seed(self) -> int:
        """The seed that decides which samples a step sees."""
        return self.seed if self.data_seed is None else self.data_seed


def _check_workers(workers: int | None) -> None:
    if workers is not None and workers < 0:
        raise UsageError(f"--workers is {workers}; it must be 0 or above, or auto.")
