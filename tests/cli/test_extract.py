import json
from pathlib import Path

import kdpipe
import numpy as np
import pytest

from .conftest import Cli

DATA = "digits,split=train"
TEACHER = "python:my_teachers:teacher"


def test_extract_then_again(cli: Cli, workplace: Path) -> None:
    first = cli("extract", "--data", DATA, "--teacher", TEACHER, "--out", "d.kd", "--json")
    assert first.code == 0, first.err
    manifest = json.loads(first.out)
    assert manifest["state"] == "complete"
    assert manifest["num_samples"] == 898
    before = {path: path.stat().st_mtime_ns for path in workplace.rglob("d.kd/**/*")}
    again = cli("extract", "--data", DATA, "--teacher", TEACHER, "--out", "d.kd")
    assert again.code == 0
    assert "finished already" in again.err
    assert before == {path: path.stat().st_mtime_ns for path in workplace.rglob("d.kd/**/*")}


def test_flags_win_over_the_configuration_file(cli: Cli, workplace: Path) -> None:
    (workplace / "extract.toml").write_text(
        f'data = "{DATA}"\nteacher = "{TEACHER}"\nchunk-rows = 100\nwrite = "ranks"\n'
    )
    outcome = cli("extract", "--config", "extract.toml", "--out", "d.kd", "--chunk-rows", 128, "--json")
    assert outcome.code == 0, outcome.err
    manifest = json.loads(outcome.out)
    assert manifest["chunk_rows"] == 128
    assert [array["name"] for array in manifest["arrays"]] == ["ranks"]


def test_provenance_flags_reach_the_manifest(cli: Cli) -> None:
    flags = ["--owner", "team-a", "--licence", "CC-BY-4.0", "--extractor", "me", "--note", "first try"]
    outcome = cli("extract", "--data", DATA, "--teacher", TEACHER, "--out", "d.kd", "--json", *flags)
    manifest = json.loads(outcome.out)
    assert [manifest[key] for key in ("owner", "licence", "extractor", "note")] == flags[1::2]


def test_float32_and_float16_stores_agree_within_rounding(cli: Cli, workplace: Path) -> None:
    for codec in ("float16", "float32"):
        assert cli("extract", "--data", DATA, "--teacher", TEACHER, "--out", f"{codec}.kd", "--codec", codec).code == 0
    rows = np.arange(898)
    half, full = (
        kdpipe.open_store(f"{codec}.kd").read(rows, arrays=("logits", "ranks")) for codec in ("float16", "float32")
    )
    np.testing.assert_array_equal(half["logits"], full["logits"].astype(np.float16))
    np.testing.assert_array_equal(half["ranks"], full["ranks"])
    np.testing.assert_array_equal(full["ranks"], np.argsort(-full["logits"], axis=1, kind="stable"))


def test_a_codec_from_extraction_to_training(cli: Cli, workplace: Path) -> None:
    extract = (
        "extract",
        "--data",
        DATA,
        "--teacher",
        TEACHER,
        "--out",
        "d.kd",
        "--codec",
        "topk:4,temperatures=1,4+zstd",
    )
    assert cli(*extract).code == 0
    shown = cli("store", "inspect", "d.kd").out
    assert "topk:4,temperatures=1,4+zstd" in shown
    assert "uncompressed" in shown
    assert cli("store", "verify", "--deep", "--teacher", TEACHER, "--data", DATA, "d.kd").code == 0
    distill = ("distill", "--store", "d.kd", "--student", "kdpipe:convnet_tiny", "--epochs", "1", "--out")
    assert cli(*distill, "a", "--loss", "kd", "--loss", "grkd").code == 0
    refused = cli(*distill, "b", "--loss", "dist")
    assert refused.code == 3
    assert "'dist' needs all logits; d.kd keeps the best 4 of 10 only" in refused.err
    refused = cli(*distill, "c", "--loss", "kd,temperature=2")
    assert refused.code == 2
    assert "temperature 2 is not stored: topk:4,temperatures=1,4 has 1, 4" in refused.err


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--codec": "topk:11"}, 2, "keeps more classes than the 10"),
        ({"--codec": "flot16"}, 2, "Did you mean 'float16'?"),
        ({"--codec": "factorised"}, 2, "makes no sense here"),
        ({"--data": "digts"}, 2, "Did you mean 'digits'?"),
        ({"--data": "digits,splitt=train"}, 2, "Did you mean 'split'?"),
        ({"--data": "folder:nowhere"}, 2, "is not a folder"),
        ({"--data": "fashion-mnist:nowhere"}, 2, "There is no train-images-idx3-ubyte[.gz] in nowhere"),
        ({"--teacher": "pithon:my_teachers:teacher"}, 2, "Did you mean 'python'?"),
        ({"--teacher": "python:my_teachers:teachr"}, 2, "Did you mean 'teacher'?"),
        ({"--teacher": "python:no_such_module:f"}, 2, "no Python module 'no_such_module'"),
        ({"--teacher": "kdpipe:resnet8x4"}, 2, "Add weights=FILE"),
        ({"--teacher": "kdpipe:resnet8x5,weights=w.safetensors"}, 2, "Did you mean 'resnet8x4'?"),
        ({"--teacher": "torchvision:resnet51,weights=DEFAULT"}, 2, "Did you mean 'resnet50'?"),
        ({"--teacher": "kdpipe:resnet8x4,weights=w.safetensors"}, 2, "no weights file w.safetensors"),
        ({"--teacher": "export:t.pt2"}, 2, "no exported program t.pt2"),
        ({"--teacher": "python:my_teachers:twelve"}, 3, "gives 12 classes, the data set has 10"),
        ({"--teacher": f"{TEACHER},kind=shape"}, 3, "not (batch, classes) logits"),
        ({"--preprocess": "image,crp=4"}, 2, "Did you mean 'crop'?"),
        ({"--preprocess": "image,resize=4"}, 1, "cannot take inputs of shape"),
        ({"--groups": "third"}, 2, "Did you mean 'thirds'?"),
        ({"--order": "random"}, 2, "Use dataset, shuffled or shuffled:SEED"),
        ({"--write": "logit"}, 2, "Did you mean 'logits'?"),
        ({"--batch-size": "many"}, 2, "neither auto nor a whole number"),
        ({"--workers": "-1"}, 2, "must be 0 or above"),
        ({"--data": "."}, 2, "Write folder:."),
        ({"--batch-size": "0"}, 2, "it must be at least 1"),
        ({"--views": "1000001", "--augment": "rrc-flip,size=8"}, 2, "a store has at most 1,000,000"),
        ({"--device": "gpu"}, 2, "is not there. Use --device auto"),
        ({"--config": "missing.toml"}, 2, "missing.toml cannot be read"),
    ],
)
def test_wrong_usage_writes_nothing(
    cli: Cli, workplace: Path, changes: dict[str, str], code: int, message: str
) -> None:
    flags = {"--data": DATA, "--teacher": TEACHER, "--out": "d.kd", **changes}
    outcome = cli("extract", *(part for flag in flags.items() for part in flag))
    assert (outcome.code, message in outcome.err) == (code, True), outcome.err
    assert len(outcome.err.strip().splitlines()) <= 4
    assert not (workplace / "d.kd").exists()


def test_unknown_key_in_the_configuration_file(cli: Cli, workplace: Path) -> None:
    (workplace / "extract.toml").write_text('techer = "x"\n')
    outcome = cli("extract", "--config", "extract.toml", "--out", "d.kd")
    assert outcome.code == 2
    assert "Did you mean 'teacher'?" in outcome.err


def test_probabilities_in_the_place_of_logits_are_noticed(cli: Cli, caplog: pytest.LogCaptureFixture) -> None:
    for kind, is_noticed in (("softmax", True), ("plain", False)):
        outcome = cli("extract", "--data", DATA, "--teacher", f"{TEACHER},kind={kind}", "--out", f"{kind}.kd")
        assert outcome.code == 0
        assert caplog.text.count("look like probabilities") == int(is_noticed)
        caplog.clear()


def test_nan_logits_are_refused_with_the_sample_ids(cli: Cli, workplace: Path) -> None:
    outcome = cli("extract", "--data", DATA, "--teacher", f"{TEACHER},kind=nan", "--out", "d.kd")
    assert outcome.code == 3
    assert "not finite" in outcome.err
    assert "digits/" in outcome.err
    assert not list(workplace.glob("d.kd/receipts/*"))
    assert cli("extract", "--data", DATA, "--teacher", TEACHER, "--out", "d.kd").code == 0, (
        "an empty store is begun anew"
    )


def test_logits_that_are_all_equal_are_refused_with_the_sample_ids(cli: Cli) -> None:
    outcome = cli("extract", "--data", DATA, "--teacher", f"{TEACHER},kind=equal", "--out", "d.kd")
    assert outcome.code == 3
    assert "all equal for digits/" in outcome.err


def test_float16_overflow_is_refused_and_float32_taken(cli: Cli) -> None:
    arguments = ["extract", "--data", DATA, "--teacher", f"{TEACHER},kind=big", "--out", "d.kd"]
    outcome = cli(*arguments)
    assert outcome.code == 3
    assert "--codec float32" in outcome.err
    assert cli(*arguments, "--codec", "float32").code == 0


def test_other_settings_on_a_store_are_refused(cli: Cli, workplace: Path) -> None:
    arguments = ["extract", "--data", DATA, "--teacher", TEACHER, "--out", "d.kd"]
    assert cli(*arguments).code == 0
    before = (workplace / "d.kd" / "manifest.json").read_bytes()
    outcome = cli(*arguments, "--codec", "float32")
    assert outcome.code == 3
    assert "arrays differ" in outcome.err
    assert (workplace / "d.kd" / "manifest.json").read_bytes() == before


def test_a_folder_that_is_no_store_is_left_alone(cli: Cli, workplace: Path) -> None:
    (workplace / "thesis").mkdir()
    (workplace / "thesis" / "chapter1.tex").write_text("precious")
    outcome = cli("extract", "--data", DATA, "--teacher", TEACHER, "--out", "thesis")
    assert outcome.code == 3
    assert [path.name for path in (workplace / "thesis").iterdir()] == ["chapter1.tex"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chunk-rows = 1.9", "'chunk-rows' in c.toml: '1.9' is not a valid integer"),
        ("batch_size = true", "'batch_size' in c.toml: 'True' is neither auto nor a whole number"),
        ("views = [1, 2]", "'views' in c.toml: '1,2' is not a valid integer"),
        ("precision = 'fp8'", "'precision' in c.toml: 'fp8' is not one of 'auto', 'fp32'"),
    ],
)
def test_a_configuration_is_checked_as_strictly_as_flags(cli: Cli, workplace: Path, line: str, message: str) -> None:
    (workplace / "c.toml").write_text(f'data = "{DATA}"\nteacher = "{TEACHER}"\nout = "d.kd"\njson = true\n{line}\n')
    outcome = cli("extract", "--config", "c.toml")
    assert outcome.code == 2
    assert message in outcome.err


def test_a_configuration_that_is_no_object_is_refused(cli: Cli, workplace: Path) -> None:
    (workplace / "c.json").write_text("[1, 2]")
    outcome = cli("extract", "--config", "c.json")
    assert (outcome.code, "c.json holds no object" in outcome.err) == (2, True)


def test_a_store_that_lost_a_file_is_not_called_finished(cli: Cli, workplace: Path) -> None:
    arguments = ["extract", "--data", DATA, "--teacher", TEACHER, "--out", "d.kd"]
    assert cli(*arguments).code == 0
    (workplace / "d.kd" / "classes.parquet").unlink()
    outcome = cli(*arguments)
    assert outcome.code == 3
    assert "kdpipe store repair d.kd" in outcome.err
    assert cli("store", "repair", "d.kd").code == 0
    assert cli(*arguments).code == 0
    assert cli("store", "verify", "d.kd").code == 0
