"""What a codec costs a student: accuracy and bytes for every codec, from the same teacher's logits.

Usage: python benchmarks/codec_students.py [--quick | --write] [GLYPHS.npz]     (make codecs)

For each data set a teacher is trained (that of benchmarks/views.py), a float32 store of its logits is extracted and
converted to every other codec (`factorised` is extracted), and a sweep over the stores trains students of `kd` and
`ltkd` with their defaults: nothing is tuned. All students see the same batches, and those of a seed begin with the same
weights: differences are taken in pairs. Prints test accuracies over the seeds and bytes; with --write also into
docs/codecs.md and benchmarks/results/codec-students.json. GLYPHS.npz is what benchmarks/glyph100.py makes; --quick
takes digits.
"""

import sys
from pathlib import Path
from typing import Any

import accuracy_page
import long_tailed
import numpy as np
import pages
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.sweep import SweepConfig, sweep
from kdpipe.stores import open_store
from kdpipe.stores.reshape.recode import recode
from long_tailed import GROUPS, ROOT, Setting

LOSSES = ("kd", "ltkd")
EXACT = "float32"


def make_stores(setting: Setting, root: Path) -> dict[str, Path]:
    """The teacher's logits in every codec, by its name."""
    teacher = setting.trained_teacher(root / "teacher")
    stores = {codec: root / f"{codec.replace(':', '-')}.kd" for codec in (EXACT, *setting.codecs)}
    for codec, path in stores.items():
        if codec in (EXACT, "factorised"):
            extract(
                ExtractConfig(data=setting.train, teacher=teacher, codec=codec, write=("logits",), workers=0, out=path)
            )
        else:
            recode(stores[EXACT], path, codec)
    return stores


def bytes_a_row(path: Path, folder: Path) -> tuple[float, float]:
    """Of the arrays that stand for the logits: as they are, and compressed (a store is made to see)."""
    manifest = open_store(path).manifest
    packed = folder / f"{path.stem}+zstd.kd"
    recode(path, packed, f"{manifest.logit_codec}+zstd")
    layout = open_store(packed).layout
    names = [name for chunk in range(manifest.grid.num_chunks) for name in layout.chunk_sizes(chunk)]
    size = sum((packed / name).stat().st_size for name in names)
    return sum(array.row_bytes for array in manifest.logit_arrays), size / manifest.num_samples


def measure(setting: Setting, root: Path) -> dict[str, Any]:
    """Bytes by codec, and accuracies by loss and codec, one a seed; and those without a teacher."""
    stores = make_stores(setting, root)
    base = setting.run(store=stores[EXACT], val=setting.test, out=root / "students")
    swept = SweepConfig(
        base=base, losses=LOSSES, settings={"store": tuple(map(str, stores.values()))}, seeds=setting.seeds
    )
    alone = SweepConfig(base=setting.run(val=setting.test, out=root / "alone"), losses=("ce",), seeds=setting.seeds)
    rows = [*sweep(swept, progress).rows, *sweep(alone, progress).rows]
    if bad := [row for row in rows if row.state not in ("done", "diverged")]:
        sys.exit(f"{bad[0].loss}: {bad[0].error}")
    found = {
        (row.loss, row.settings.get("store"), row.seed): {group: getattr(row, group) for group in GROUPS}
        for row in rows
    }
    sizes = {codec: bytes_a_row(path, root) for codec, path in stores.items()}
    return {
        "samples": len(open_store(stores[EXACT])),
        "classes": open_store(stores[EXACT]).manifest.num_classes,
        "bytes": {codec: {"plain": plain, "zstd": packed} for codec, (plain, packed) in sizes.items()},
        "ce": [found["ce", None, seed] for seed in setting.seeds],
        "codecs": {
            codec: {loss: [found[loss, str(path), seed] for seed in setting.seeds] for loss in LOSSES}
            for codec, path in stores.items()
        },
    }


def progress(row: Any) -> None:
    print(f"{row.loss}, {row.settings}, seed {row.seed}: {row.overall}", file=sys.stderr, flush=True)


def table(result: dict[str, Any]) -> str:
    setting = result["setting"]
    plain = long_tailed.percent([run["overall"] for run in result["ce"]])
    tail = long_tailed.percent([run["tail"] for run in result["ce"]])
    lines = [
        f"**{setting['name']}**: {result['samples']:,} samples, {result['classes']} classes, {setting['epochs']} epochs, "
        f"{setting['teacher'].partition(':')[2]} teaches {setting['student'].partition(':')[2]}, {len(setting['seeds'])} "
        f"seeds. Without a teacher (`ce`): {plain}, tail {tail}.",
        "",
        "| codec | bytes a row | `+zstd` | "
        + " | ".join(f"`{loss}` | tail | overall - float32's" for loss in LOSSES)
        + " |",
        "|---|---|---|" + "---|---|---|" * len(LOSSES),
    ]
    for codec, found in result["codecs"].items():
        cells = [f"{result['bytes'][codec][kind]:,.0f}" for kind in ("plain", "zstd")]
        for loss in LOSSES:
            cells += [long_tailed.percent([run[group] for run in found[loss]]) for group in ("overall", "tail")]
            cells.append("" if codec == EXACT else difference(found[loss], result["codecs"][EXACT][loss]))
        lines.append(f"| `{codec}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def difference(runs: list[dict[str, float]], exact: list[dict[str, float]]) -> str:
    """Of the accuracies in pairs: mean and 95 % confidence interval; a student that diverged counts as 0."""
    one, other = (np.array([100 * (run["overall"] or 0.0) for run in each]) for each in (runs, exact))
    return accuracy_page.interval(one - other)


def publish(text: str) -> None:
    pages.write_part(ROOT / "docs" / "codecs.md", "benchmarks/codec_students.py --write", text)


if __name__ == "__main__":
    long_tailed.prove("codec-students", sys.argv[1:], measure, table, publish)
