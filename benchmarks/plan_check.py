"""Whether a plan comes true: plan, then really extract; predicted / real time and bytes.

Usage: python benchmarks/plan_check.py [--write] [--data SPEC --teacher SPEC [--codecs SPEC,...] [--views N] [--augment SPEC]
                                        [--workers N] [--pilot N]] [--format zarr] [--repeats 3] [--out DIR]

Without arguments: 20,000 made-up images of 32 x 32 pixels, 100 classes, and an untrained resnet8x4. Every codec is
planned and then extracted, --repeats times, because the speed of a machine drifts: the median of the ratios is
printed, and the least and the largest. Every extraction is made in a process of its own, as a user would make it, and
timed without the start of Python and its imports. Give --out a folder on the disk in question. Run it on a machine
that does nothing else. With --write (make plan-check) the table of both formats goes into docs/plan.md.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pages
import torch
from kdpipe.pipeline import ExtractConfig
from kdpipe.pipeline.plan import PlanConfig, StoreCost, make_plan
from kdpipe.pipeline.plan.plan import codec_list

ROOT = Path(__file__).parents[1]
MADE_UP = """
import numpy as np
import torch

class MadeUp(torch.utils.data.Dataset):
    classes = [f"c{number:02d}" for number in range(100)]

    def __len__(self):
        return 20_000

    def __getitem__(self, index):
        generator = np.random.default_rng(index)
        image = torch.from_numpy(generator.integers(0, 256, (3, 32, 32), np.uint8))
        return image, int(100 * generator.random() ** 2)

def images():
    return MadeUp()

def resnet(num_classes):
    from kdpipe.pipeline.models import create_model
    torch.manual_seed(0)  # the plan and every extraction must have the same teacher
    return create_model("resnet8x4", num_classes, 3)
"""
HEAD = """\
| codec | format | predicted s | real s | predicted / real | predicted bytes | real bytes | predicted / real |
|---|---|---|---|---|---|---|---|"""
EXTRACT = """
import json, sys, time
from kdpipe.pipeline import ExtractConfig, extract
settings = json.loads(sys.argv[1])
started = time.perf_counter()
extract(ExtractConfig(**settings | {"out": __import__("pathlib").Path(settings["out"])}))
print(time.perf_counter() - started)
"""


def extraction(settings: dict[str, object], out: Path) -> tuple[float, int]:
    """Seconds and bytes of a real extraction, which is removed again."""
    request = msgspec.json.encode({**settings, "out": str(out)}).decode()
    done = subprocess.run([sys.executable, "-c", EXTRACT, request], check=True, stdout=subprocess.PIPE, text=True)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    return float(done.stdout), size


def compare(asked: argparse.Namespace, settings: dict[str, object], codec: str, folder: Path) -> str:
    """Plan and extract with a codec, some times in turn: a row of the table."""
    pairs: list[tuple[StoreCost, float, int]] = []
    for _ in range(asked.repeats):
        plan = PlanConfig(
            extract=ExtractConfig(**settings, out=folder / "real.kd"),  # pyright: ignore[reportArgumentType]
            codecs=(codec,),
            views=(asked.views,),
            pilot=asked.pilot,
        )
        [cost] = make_plan(plan).costs
        seconds, size = extraction({**settings, "codec": cost.codec, "views": cost.views}, folder / "real.kd")
        pairs.append((cost, seconds, size))
    times = sorted(cost.seconds / seconds for cost, seconds, _ in pairs)
    sizes = [cost.bytes / size for cost, _, size in pairs]
    cost, seconds, size = pairs[-1]
    cells = [
        f"`{cost.codec}`", str(settings["format"]), f"{cost.seconds:.1f}", f"{seconds:.1f}",
        f"**{statistics.median(times):.2f}** ({times[0]:.2f} to {times[-1]:.2f})",
        f"{cost.bytes:,}", f"{size:,}", f"**{statistics.median(sizes):.4f}**",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="python:made_up_images:images")
    parser.add_argument("--teacher", default="python:made_up_images:resnet")
    parser.add_argument("--codecs", default="float32,float16,int8+zstd,topk:10")
    parser.add_argument("--views", type=int, default=1)
    parser.add_argument("--augment")
    parser.add_argument("--format", choices=["zarr", "parquet", "parquet-lists"], help="default: zarr, then parquet")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--pilot", type=int)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Plan, extract, compare."""
    asked = arguments()
    lines = [HEAD]
    print(HEAD)
    with tempfile.TemporaryDirectory(dir=asked.out) as name:
        folder = Path(name)
        settings = {name: getattr(asked, name) for name in ("data", "teacher", "augment", "workers")}
        (folder / "made_up_images.py").write_text(MADE_UP)
        sys.path.insert(0, name)  # of this process, and of the extractions'
        os.environ["PYTHONPATH"] = os.pathsep.join([name, os.environ.get("PYTHONPATH", "")])
        for payload in [asked.format] if asked.format else ["zarr", "parquet"]:
            for codec in codec_list(asked.codecs):
                lines.append(compare(asked, {**settings, "format": payload}, codec, folder))
                print(lines[-1], flush=True)
    if asked.write:
        about = f"Measured {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores, torch {torch.__version__}."
        text = "\n".join(
            [f"{about} {asked.repeats} plans and extractions each; times and bytes of the last.", "", *lines]
        )
        pages.write_part(ROOT / "docs" / "plan.md", "benchmarks/plan_check.py --write", text)


if __name__ == "__main__":
    main()
