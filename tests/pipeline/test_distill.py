"""Training as a whole: the store stands in for the live teacher, and a killed run ends as one never killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.stores import MismatchError

ROOT = Path(__file__).parents[2]
DATA = "digits,split=train,imbalance=5"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    optimiser = OptimiserConfig(lr=0.05)
    distill(DistillConfig(student="kdpipe:convnet_tiny", data=DATA, out=root / "t", epochs=3, optimiser=optimiser))
    weights = f"kdpipe:convnet_tiny,weights={root / 't' / 'student.safetensors'}"
    extract(ExtractConfig(data=DATA, teacher=weights, out=root / "d.kd", chunk_rows=64))
    return root / "d.kd"


def command(store: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "kdpipe", "distill", "--store", str(store), "--student", "kdpipe:convnet_tiny",
        "--loss", "kd", "--loss", "grkd,weight=0.1", "--epochs", "6", "--batch-size", "32", "--ema", "0.9",
        "--val", "digits,split=test", "--checkpoint-seconds", "0", "--out", str(out),
    ]  # fmt: skip


def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_weights(store: Path, tmp_path: Path) -> None:
    subprocess.run(command(store, tmp_path / "whole"), check=True, capture_output=True)
    for _ in range(2):
        process = subprocess.Popen(command(store, tmp_path / "killed"), stdout=-3, stderr=-3)
        deadline = time.monotonic() + 60
        first = max((p.name for p in tmp_path.glob("killed/checkpoints/*.pt")), default="")
        while time.monotonic() < deadline and process.poll() is None:
            newest = max((p.name for p in tmp_path.glob("killed/checkpoints/*.pt")), default="")
            if newest > first:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command(store, tmp_path / "killed"), check=True, capture_output=True)
    whole, killed = (tmp_path / name / "student.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()


def test_the_store_stands_in_for_the_live_teacher() -> None:
    script = ROOT / "benchmarks" / "live_teacher.py"
    run = subprocess.run([sys.executable, script, "3"], check=True, capture_output=True, text=True)
    differences = [float(line.split()[-1]) for line in run.stdout.splitlines() if "largest difference" in line]
    assert differences[0] < 1e-4, "another batch split: float32 round-off"
    assert differences[1] == 0.0, "the same batch split: bit for bit"


def test_the_seed_decides_and_the_order_of_the_data_does_not(store: Path, tmp_path: Path) -> None:
    def weights(name: str, **settings: object) -> bytes:
        base = {"student": "kdpipe:convnet_tiny", "store": store, "loss": ("kd",), "epochs": 1, "out": tmp_path / name}
        distill(DistillConfig(**{**base, **settings}))  # pyright: ignore[reportArgumentType]
        return (tmp_path / name / "student.safetensors").read_bytes()

    one = weights("one")
    assert one == weights("again")
    assert one != weights("other", seed=1)
    assert one == weights("longer", data="digits,split=train"), "a longer data set is joined by sample id"


def test_chunk_order_needs_no_store_in_memory(store: Path, tmp_path: Path) -> None:
    result = distill(
        DistillConfig(
            student="kdpipe:convnet_tiny", store=store, loss=("ltkd",), epochs=1, order="chunks", out=tmp_path / "r"
        )
    )
    assert result.trained


def test_a_label_sorted_store_streamed_by_chunks_is_warned_about(
    tmp_path: Path, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from PIL import Image

    for label in range(40):
        folder = tmp_path / "sorted" / f"{label:02d}"
        folder.mkdir(parents=True)
        for number in range(8):
            Image.new("L", (8, 8), 6 * label + number % 4).save(folder / f"{number}.png")
    data = f"folder:{tmp_path / 'sorted'}"
    distill(DistillConfig(student="kdpipe:convnet_tiny", data=data, out=tmp_path / "t", epochs=1, workers=0))
    weights = f"kdpipe:convnet_tiny,weights={tmp_path / 't' / 'student.safetensors'}"
    for order in ("dataset", "shuffled"):
        kd = tmp_path / f"{order}.kd"
        extract(ExtractConfig(data=data, teacher=weights, out=kd, chunk_rows=4, order=order, workers=0))
        caplog.clear()
        distill(
            DistillConfig(
                student="kdpipe:convnet_tiny", store=kd, loss=("kd",), epochs=1, batch_size=32, order="chunks",
                workers=0, out=tmp_path / f"run-{order}",
            )
        )  # fmt: skip
        assert ("sorted by label" in caplog.text) == (order == "dataset")


def test_validation_classes_must_agree(store: Path, tmp_path: Path) -> None:
    (tmp_path / "val" / "zero").mkdir(parents=True)
    from PIL import Image

    Image.new("L", (8, 8)).save(tmp_path / "val" / "zero" / "0.png")
    message = r"classes of --val .*: 10 in training, 1 in validation; only in training: \['0', '1', '2'\], .*\['zero'\]"
    with pytest.raises(MismatchError, match=message):
        distill(
            DistillConfig(
                student="kdpipe:convnet_tiny", store=store, loss=("kd",), epochs=1, out=tmp_path / "r",
                val=f"folder:{tmp_path / 'val'}",
            )
        )  # fmt: skip


def test_sigterm_exits_130_and_the_run_goes_on(store: Path, tmp_path: Path) -> None:
    arguments = command(store, tmp_path / "run")
    arguments[arguments.index("--epochs") + 1] = "400"
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=-3, text=True, env=os.environ)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("run/checkpoints/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in err
    assert "Traceback" not in err
