"""``kdpipe report``: docs/reports.md tells the truth, from real extractions and trainings; what is printed; exit codes."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from .conftest import Cli

PAGE = Path(__file__).parents[2] / "docs" / "reports.md"
TRAIN, VAL = "digits,split=train,imbalance=10", "digits,split=test"
STUDENT = "kdpipe:convnet_tiny"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real stores, runs and a sweep, as the guide names them."""
    from kdpipe.pipeline import DistillConfig, ExtractConfig, distill, extract
    from kdpipe.pipeline.sweep import SweepConfig, sweep

    root = tmp_path_factory.mktemp("made")
    shared = {"student": STUDENT, "epochs": 2, "batch_size": 64, "val": VAL, "workers": 0}
    distill(DistillConfig(out=root / "teacher", data=TRAIN, **shared))
    teacher = f"{STUDENT},weights={root / 'teacher' / 'student.safetensors'}"
    for name, data, codec in (("photos", TRAIN, "float16"), ("other", TRAIN, "int8"), ("val", VAL, "float16")):
        extract(ExtractConfig(data=data, teacher=teacher, out=root / f"{name}.kd", codec=codec, workers=0))
    for loss in ("kd", "ltkd"):
        distill(DistillConfig(out=root / "runs" / loss, store=root / "photos.kd", loss=(loss,), **shared))
    base = DistillConfig(out=root / "sweeps" / "lr", store=root / "photos.kd", loss=("kd",), **shared)
    sweep(SweepConfig(base=base, settings={"lr": ("0.1", "0.01")}))
    return root


@pytest.fixture
def here(made: Path, workplace: Path) -> Path:
    """A working directory that has them."""
    for path in made.iterdir():
        (workplace / path.name).symlink_to(path)
    return workplace


def test_the_commands_of_the_guide_run(here: Path, cli: Cli) -> None:
    pages = set()
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            program, *arguments = shlex.split(line)
            assert program == "kdpipe"
            outcome = cli(*arguments)
            assert outcome.code == 0, f"{line}\n{outcome.err}"
            assert outcome.out
            pages |= {argument for argument in arguments if argument.endswith(".html")}
    assert len(pages) == 4
    for page in pages:
        assert (here / page).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_real_run_has_results_by_class(here: Path, cli: Cli) -> None:
    outcome = cli("report", "runs/ltkd", "--baseline", "runs/kd", "--store", "val.kd", "--json")
    found = json.loads(outcome.out)
    assert found["kind"] == "run"
    classes, summary = found["run"]["classes"], found["run"]["summary"]
    assert sum(classes["correct"]) / sum(classes["rows"]) == pytest.approx(summary["val"]["overall"])
    assert found["teacher"]["same_data"] is True


def test_the_numbers_of_a_store_are_those_of_its_manifest(here: Path, cli: Cli) -> None:
    found = json.loads(cli("report", "val.kd", "--json").out)
    samples, manifest = found["samples"], found["manifest"]
    assert sum(samples["class_correct"]) / samples["rows"] == pytest.approx(manifest["accuracy"]["overall"])
    assert [mass["temperature"] for mass in found["payload"]["masses"]] == [1.0, 4.0]


def test_a_codec_s_cost_is_told(here: Path, cli: Cli) -> None:
    found = json.loads(cli("report", "photos.kd", "--against", "other.kd", "--json").out)["comparison"]
    assert found["same_teacher"] is True
    assert 0 < found["divergences"][0]["kl"] < 1e-3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["photos.kd", "--out", "photos.pdf"], 2, "does not end in .html"),
        (["photos.kd", "--baseline", "runs/kd"], 2, "--baseline means nothing"),
        (["runs/kd", "--temperature", "2"], 2, "--temperature means nothing"),
        (["photos.kd", "--temperature", "-1"], 2, "-1 is not between 0.01 and 1000"),
        (["runs"], 3, "no store, run or sweep"),
        (["nowhere"], 3, "no store, run or sweep"),
        (["photos.kd", "--against", "nowhere.kd"], 3, "cannot be read"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], code: int, words: str, here: Path, cli: Cli) -> None:
    outcome = cli("report", *arguments)
    assert outcome.code == code
    assert words in outcome.err


def test_a_damaged_store_is_refused(here: Path, cli: Cli) -> None:
    shutil.copytree(here / "val.kd", here / "damaged.kd")
    (here / "damaged.kd" / "samples" / "00000.parquet").write_bytes(b"no table")
    outcome = cli("report", "damaged.kd", "--out", "damaged.html")
    assert outcome.code == 3
    assert "00000.parquet" in outcome.err
    assert not (here / "damaged.html").exists()
