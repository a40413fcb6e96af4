import json
from pathlib import Path

import numpy as np
import pytest

from .conftest import Cli


@pytest.fixture
def source(workplace: Path) -> Path:
    generator = np.random.default_rng(0)
    np.savez(workplace / "old.npz", logits=generator.normal(size=(40, 3)), ids=np.arange(40), labels=np.arange(40) % 3)
    (workplace / "classes.txt").write_text("cat\ndog\neel\n")
    return workplace / "old.npz"


def test_an_import_is_shown_and_done_once(cli: Cli, source: Path) -> None:
    command = (
        "store",
        "import",
        source,
        "--ids",
        "ids",
        "--labels",
        "labels",
        "--classes",
        "classes.txt",
        "--out",
        "a.kd",
    )
    first, again = cli(*command, "--note", "from 2019", "--json"), cli(*command)
    manifest = json.loads(first.out)
    assert manifest["teacher"]["spec"] == "imported:old.npz"
    assert (manifest["num_samples"], manifest["note"], manifest["state"]) == (40, "from 2019", "complete")
    assert again.code == 0
    assert manifest["store_id"] in again.out
    shown = cli("store", "inspect", "a.kd").out
    assert "  imported:old.npz\n" in shown, "nobody knows how many parameters it has"
    assert cli("store", "verify", "--deep", "a.kd").code == 0


def test_imported_probabilities_are_noticed(cli: Cli, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 40).astype(np.float32)
    np.savez(source, logits=rows, ids=np.arange(40), labels=np.arange(40) % 3)
    named = ("--ids", "ids", "--labels", "labels", "--classes", "classes.txt")
    outcome = cli("store", "import", source, *named, "--out", "p.kd")
    assert outcome.code == 0, outcome.err
    assert caplog.text.count("look like probabilities") == 1


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("--ids", "keys"), 2, "ids, labels"),
        (("--labels", "ids"), 3, "from 0 to 39"),
        (("--logits", "logit"), 2, "Did you mean 'logits'"),
        (("--codec", "topk:4"), 2, "more classes"),
        (("--out", "s3://team/a.kd"), 2, "then push it"),
    ],
)
def test_bad_imports(cli: Cli, source: Path, change: tuple[str, ...], code: int, message: str) -> None:
    flags = {"--ids": "ids", "--labels": "labels", "--classes": "classes.txt", "--out": "a.kd", change[0]: change[1]}
    done = cli("store", "import", source, *(part for flag in flags.items() for part in flag))
    assert done.code == code
    assert message in done.err
