"""What each codec costs and changes: bytes, fidelity of the teacher's logits, error of every loss's gradient; bits of ranks.

Usage: python benchmarks/codec_fidelity.py [STORE | --write]     (make codecs)

STORE holds float32 logits; without one, synthetic logits of 1000 classes are taken (2048 rows, 256 features). With
--write the tables of these, and of real ones, go into docs/codecs.md: what EfficientNet-Lite0 says of augmented views
of 20 photographs. The student is half the teacher and half noise. A gradient's error is relative to its length:
|g' - g| / |g| over a batch of 256; g is the gradient from the float32 logits. For topk, `kd` and `ltkd` take the kept
classes and one event more.
"""

import math
import sys
import tempfile
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pages
import photographs
import torch
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.losses import LOSSES, CrossEntropy, Loss, LossInputs, TeacherMass, group_masses
from kdpipe.stores import open_store
from kdpipe.stores.arrays import GROUP_NAMES
from kdpipe.stores.codecs import Codec, Factorised, FidelityTally, LogitCodec, TopK, parse_codec
from kdpipe.stores.codecs.compression import compress
from kdpipe.stores.ranking import rank_classes
from torch import Tensor

SPECS = ("float32", "float16", "int8", "topk:10", "topk:50", "topk:200", "factorised")
ROWS, BATCH = 2048, 256
RANKED = (10, 100, 1000, 21841)
VIEWS, AUGMENT = 100, "rrc-flip,size=224,scale=0.25,1,interpolation=bicubic"
PAGE = Path(__file__).parents[1] / "docs" / "codecs.md"


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """What a teacher says of some rows: logits (n, C), labels (n,), and the layer that made them, where it is known."""

    logits: np.ndarray
    labels: np.ndarray
    class_groups: np.ndarray
    features: np.ndarray | None = None
    constants: dict[str, np.ndarray] | None = None


def synthetic(rows: int = ROWS, num_classes: int = 1000, num_features: int = 256) -> Teacher:
    generator = np.random.default_rng(0)
    weight = generator.normal(0, 1, (num_classes, num_features)).astype(np.float32)
    # a third of the classes are near another one, as kinds of dogs are
    near = generator.permutation(num_classes)[: num_classes // 3]
    weight[near] = weight[(near + 1) % num_classes] + generator.normal(0, 0.4, (len(near), num_features))
    labels = generator.integers(0, num_classes, rows)
    margin = generator.gamma(4, 1.0, (rows, 1))
    noise = generator.normal(0, 2.4, (rows, num_features)) / np.sqrt(num_features)
    features = (margin * weight[labels] / num_features + noise).astype(np.float32)
    constants = {"classifier_weight": weight, "classifier_bias": np.zeros(num_classes, np.float32)}
    groups = np.arange(num_classes) * len(GROUP_NAMES) // num_classes
    return Teacher(
        logits=features @ weight.T, labels=labels, class_groups=groups, features=features, constants=constants
    )


def from_store(path: Path | str) -> Teacher:
    """Rows spread over all views of a store, in random order."""
    store = open_store(path)
    places = np.random.default_rng(0).permutation(len(store) * store.manifest.num_views)[:ROWS]
    views, rows = np.divmod(places, len(store))
    logits = np.empty((len(rows), store.manifest.num_classes), np.float32)
    for view in np.unique(views):
        logits[views == view] = store.read(rows[views == view], view=int(view))["logits"]
    labels = store.samples(["label"])["label"].to_numpy()[rows]
    return Teacher(logits=logits, labels=labels, class_groups=store.class_groups)


def of_photographs() -> Teacher:
    """What EfficientNet-Lite0 says of augmented views of foolbox's photographs."""
    with tempfile.TemporaryDirectory() as name, chdir(name):
        photographs.write(Path())
        extract(
            ExtractConfig(
                data=photographs.DATA, teacher=photographs.TEACHER, augment=AUGMENT, views=VIEWS, codec="float32",
                precision="fp32", write=("logits",), workers=0, out=Path("photos.kd"),
            )
        )  # fmt: skip
        return from_store("photos.kd")


def encoded(codec: Codec, teacher: Teacher) -> dict[str, np.ndarray]:
    values = teacher.features if codec.source == "features" and teacher.features is not None else teacher.logits
    return codec.encode(values, teacher.class_groups)


def fidelity_row(codec: Codec, teacher: Teacher) -> list[str]:
    tally = FidelityTally(codec, teacher.class_groups, constants=teacher.constants)
    for start in range(0, len(teacher.logits), BATCH):
        part = slice(start, start + BATCH)
        tally.add(teacher.logits[part], None if teacher.features is None else teacher.features[part])
    found, arrays = tally.result(), encoded(codec, teacher)
    rows = len(teacher.logits)
    plain = sum(array.nbytes for array in arrays.values()) / rows
    packed = sum(len(compress(array.data.cast("B"), array.itemsize)) for array in arrays.values()) / rows
    return [
        f"{plain:,.0f}", f"{packed:,.0f}", f"{found.kl[1]:.1e}", f"{found.kl[4]:.1e}", f"{found.top1_flips:.2%}",
        f"{found.adjacent_ties:.1%}", f"{found.rank_correlation:.6f}", f"{found.group_mass_error[4]:.1e}",
        f"{found.coverage[1][-1]:.3f}",
    ]  # fmt: skip


def inputs(codec: Codec, teacher: Teacher, student: Tensor) -> LossInputs:
    """The batch as a loss sees it from a store of this codec."""
    arrays = {name: torch.from_numpy(array) for name, array in encoded(codec, teacher).items()}
    groups = torch.from_numpy(teacher.class_groups)
    fields = {}
    if isinstance(codec, TopK):
        fields = {**arrays, "temperatures": codec.temperatures}
        mass_logits = torch.from_numpy(teacher.logits)
    else:
        assert isinstance(codec, LogitCodec)
        stored = {name: array.numpy() for name, array in arrays.items()} | (teacher.constants or {})
        fields["logits"] = mass_logits = torch.from_numpy(codec.decode(stored))
    masses = {}
    for temperature in (1.0, 2.0, 4.0):
        classes = (mass_logits.float() / temperature).softmax(1).mean(0, dtype=torch.float64)
        masses[temperature] = TeacherMass(classes=classes, groups=group_masses(mass_logits, groups, temperature))
    return LossInputs(
        student_logits=student,
        labels=torch.from_numpy(teacher.labels),
        ranks=torch.from_numpy(rank_classes(teacher.logits)).long(),
        class_groups=groups,
        class_counts=torch.from_numpy(np.geomspace(1300, 13, teacher.logits.shape[1]).astype(np.int64)),
        teacher_mass=masses,
        epoch=0,
        **fields,
    )


def gradient(loss: Loss, codec: Codec, teacher: Teacher) -> Tensor:
    """Of the loss with respect to the student's logits."""
    noise = torch.from_numpy(np.random.default_rng(1).normal(0, 1.5, teacher.logits.shape).astype(np.float32))
    student = (0.5 * torch.from_numpy(teacher.logits) + noise).requires_grad_()
    return torch.autograd.grad(loss(inputs(codec, teacher, student)), student)[0]


def loss_row(name: str, codecs: list[Codec], teacher: Teacher) -> list[str]:
    loss = LOSSES[name]()
    exact = gradient(loss, parse_codec("float32"), teacher)
    cells = []
    for codec in codecs:
        takes = "logits" not in loss.needs or not isinstance(codec, TopK) or loss.top_temperature is not None
        if not takes:
            cells.append("refused")
            continue
        error = float((gradient(loss, codec, teacher) - exact).norm() / exact.norm())
        bound = "bound, " if isinstance(codec, TopK) and "logits" in loss.needs else ""
        cells.append("exact" if error == 0 else f"{bound}{error:.0e}".replace("e-0", "e-"))
    return cells


def rank_bits(num_classes: int) -> float:
    """What a class id costs in a compressed chunk of about 8 MB of ranks."""
    info_bytes = 1 if num_classes <= 256 else 2
    rows = max(1, 2**23 // (num_classes * info_bytes))
    ranks = np.random.default_rng(0).random((rows, num_classes), np.float32).argsort(axis=1)
    chunk = ranks.astype(f"uint{8 * info_bytes}")
    return 8 * len(compress(chunk.data.cast("B"), info_bytes)) / chunk.size


def table(head: list[str], rows: dict[str, list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join([f"`{name}`", *cells]) + " |" for name, cells in rows.items()]
    return "\n".join(lines) + "\n"


def fidelity_table(teacher: Teacher) -> str:
    head = ["codec", "bytes a row", "`+zstd`", "KL T=1", "KL T=4", "top-1 flips", "adjacent ties", "Spearman",
            "group mass T=4", "tail kept T=1"]  # fmt: skip
    return table(head, {_short(codec): fidelity_row(codec, teacher) for codec in codecs_for(teacher)})


def loss_table(teacher: Teacher) -> str:
    part = Teacher(
        logits=teacher.logits[:BATCH],
        labels=teacher.labels[:BATCH],
        class_groups=teacher.class_groups,
        features=None if teacher.features is None else teacher.features[:BATCH],
        constants=teacher.constants,
    )
    codecs, names = codecs_for(teacher), sorted(LOSSES, key=lambda name: (LOSSES[name] is not CrossEntropy, name))
    return table(
        ["loss", *(f"`{_short(codec)}`" for codec in codecs)], {name: loss_row(name, codecs, part) for name in names}
    )


def rank_table() -> str:
    bits = {str(classes): [f"{rank_bits(classes):.2f}", f"{math.ceil(math.log2(classes))}"] for classes in RANKED}
    return table(["classes", "bits of a rank, `+zstd`", "needed"], bits)


def codecs_for(teacher: Teacher) -> list[Codec]:
    return [parse_codec(spec) for spec in SPECS if teacher.features is not None or spec != Factorised.name]


def _short(codec: Codec) -> str:
    return str(codec).partition(",")[0]


def main() -> None:
    argument = sys.argv[1] if len(sys.argv) > 1 else None
    if argument == "--write":
        made_up, real = synthetic(), of_photographs()
        parts = {
            "fidelity": f"Synthetic logits:\n\n{fidelity_table(made_up)}\nReal logits:\n\n{fidelity_table(real)}",
            "ranks": rank_table(),
            "losses": f"Synthetic logits:\n\n{loss_table(made_up)}\nReal logits:\n\n{loss_table(real)}",
        }
        for part, text in parts.items():
            pages.write_part(PAGE, f"benchmarks/codec_fidelity.py --write: {part}", text)
        return
    teacher = from_store(argument) if argument else synthetic()
    print(fidelity_table(teacher), loss_table(teacher), rank_table(), sep="\n")


if __name__ == "__main__":
    main()
