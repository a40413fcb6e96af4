"""Whether a plan comes true: plan, then really extract; predicted / real time and bytes.

Usage: python benchmarks/plan_check.py [--data SPEC --teacher SPEC [--codecs SPEC,...] [--views N,...] [--augment SPEC]
                                        [--workers N] [--pilot N]] [--format zarr] [--out DIR]

Without arguments: 20,000 made-up images of 32 x 32 pixels, 100 classes, and an untrained resnet8x4. Every
extraction is made in a process of its own, as a user would make it, and timed without the start of Python and its
imports. Give --out a folder on the disk in question. Run it on a machine that does nothing else.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from kdpipe.pipeline import ExtractConfig
from kdpipe.pipeline.plan import PlanConfig, StoreCost, make_plan
from kdpipe.pipeline.plan.plan import codec_list

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


def line(cost: StoreCost, settings: dict[str, object], folder: Path) -> str:
    """A row of the table."""
    asked = {**settings, "codec": cost.codec, "views": cost.views}
    seconds, size = extraction(asked, folder / "real.kd")
    cells = [
        f"`{cost.codec}`", str(cost.views), f"{cost.seconds:.1f}", f"{seconds:.1f}", f"{cost.seconds / seconds:.2f}",
        f"{cost.bytes:,}", f"{size:,}", f"{cost.bytes / size:.4f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="python:made_up_images:images")
    parser.add_argument("--teacher", default="python:made_up_images:resnet")
    parser.add_argument("--codecs", default="float32,float16,int8+zstd,topk:10")
    parser.add_argument("--views", default="1")
    parser.add_argument("--augment")
    parser.add_argument("--format", default="zarr", choices=["zarr", "parquet", "parquet-lists"])
    parser.add_argument("--workers", type=int)
    parser.add_argument("--pilot", type=int)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    """Plan, extract, compare."""
    asked = arguments()
    with tempfile.TemporaryDirectory(dir=asked.out) as name:
        folder = Path(name)
        settings = {name: getattr(asked, name) for name in ("data", "teacher", "augment", "workers", "format")}
        (folder / "made_up_images.py").write_text(MADE_UP)
        sys.path.insert(0, name)  # of this process, and of the extractions'
        os.environ["PYTHONPATH"] = os.pathsep.join([name, os.environ.get("PYTHONPATH", "")])
        plan = make_plan(
            PlanConfig(
                extract=ExtractConfig(**settings, out=folder / "real.kd"),  # pyright: ignore[reportArgumentType]
                codecs=codec_list(asked.codecs),
                views=tuple(int(number) for number in asked.views.split(",")),
                pilot=asked.pilot,
            )
        )
        pilot = plan.pilot
        print(
            f"{plan.num_samples:,} samples, {plan.num_classes} classes, {plan.device}; pilot of {pilot.samples:,}, "
            f"{1 / pilot.seconds_per_sample:,.0f} samples/s, {pilot.write_bytes_per_second / 1e6:,.0f} MB/s\n"
        )
        print("| codec | views | predicted s | real s | ratio | predicted bytes | real bytes | ratio |")
        print("|---|---|---|---|---|---|---|---|")
        for cost in plan.costs:
            print(line(cost, settings, folder), flush=True)


if __name__ == "__main__":
    main()
