import dataclasses
import json
from pathlib import Path

import pytest
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.models import create_model
from kdpipe.stores.manifest import Manifest
from PIL import Image
from safetensors.torch import load_file

from .conftest import Cli

DATA = "digits,split=train,imbalance=10"
RUN = ["--student", "kdpipe:convnet_tiny", "--epochs", "1", "--batch-size", "64"]


@pytest.fixture
def store(cli: Cli) -> str:
    assert cli("extract", "--data", DATA, "--teacher", "python:my_teachers:teacher", "--out", "d.kd").code == 0
    return "d.kd"


@pytest.fixture
def ranks_only(cli: Cli) -> str:
    arguments = ["--data", DATA, "--teacher", "python:my_teachers:teacher", "--out", "ranks.kd", "--write", "ranks"]
    assert cli("extract", *arguments).code == 0
    return "ranks.kd"


@pytest.mark.parametrize(
    "losses", [["ce"], ["kd"], ["grkd"], ["ltkd"], ["ltkd,calibration=store"], ["kd,temperature=2", "grkd,weight=0.1"]]
)
def test_each_loss_trains_from_the_store(cli: Cli, store: str, losses: list[str]) -> None:
    flags = [part for loss in losses for part in ("--loss", loss)]
    outcome = cli("distill", "--store", store, *RUN, *flags, "--val", "digits,split=test", "--out", "run", "--json")
    assert outcome.code == 0, outcome.err
    summary = json.loads(outcome.out)
    assert summary["loss"] == losses
    assert set(summary["val"]) == {"overall", "balanced", "head", "medium", "tail"}
    assert summary["store_id"] == json.loads(Path(store, "manifest.json").read_text())["store_id"]
    record = json.loads(Path("run/metrics.jsonl").read_text())
    assert {loss.partition(",")[0] for loss in losses} <= set(record)
    weights = load_file("run/student.safetensors")
    create_model("convnet_tiny", 10, 1).load_state_dict(weights)


def test_a_teacher_is_trained_by_the_same_loop_and_extracted(cli: Cli) -> None:
    arguments = ["--data", DATA, "--loss", "ce", "--preprocess", "image,mean=0.5,std=0.25", *RUN]
    assert cli("distill", *arguments, "--out", "teacher").code == 0
    teacher = "kdpipe:convnet_tiny,weights=teacher/student.safetensors"
    outcome = cli("extract", "--data", DATA, "--teacher", teacher, "--out", "d.kd", "--json")
    manifest = json.loads(outcome.out)
    assert manifest["preprocessing"]["mean"] == [0.5], "the weights file records what its inputs were"
    assert cli("distill", "--store", "d.kd", *RUN, "--loss", "kd", "--out", "student").code == 0


def test_a_finished_run_is_left_alone_and_another_configuration_refused(cli: Cli, store: str) -> None:
    arguments = ["distill", "--store", store, *RUN, "--loss", "kd", "--out", "run"]
    assert cli(*arguments).code == 0
    before = Path("run/student.safetensors").stat().st_mtime_ns
    again = cli(*arguments)
    assert again.code == 0
    assert "finished already" in again.err
    other = cli(*arguments, "--lr", "0.01")
    assert other.code == 3
    assert "another configuration: lr is 0.1 there, 0.01 here" in other.err
    assert Path("run/student.safetensors").stat().st_mtime_ns == before


def test_a_finished_run_whose_student_is_gone_is_not_called_finished(cli: Cli, store: str) -> None:
    arguments = ["distill", "--store", store, *RUN, "--loss", "kd", "--out", "run"]
    assert cli(*arguments).code == 0
    Path("run/student.safetensors").rename("elsewhere")
    gone = cli(*arguments)
    assert gone.code == 3
    assert "its student.safetensors is gone. Put the file back, or remove the folder" in gone.err
    Path("elsewhere").rename("run/student.safetensors")
    assert "finished already" in cli(*arguments).err


def test_data_that_the_store_names_and_that_are_not_here(
    cli: Cli, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        path = workplace / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 40 * i).save(path)
    assert (
        cli("extract", "--data", "folder:photos", "--teacher", "python:my_teachers:teacher", "--out", "d.kd").code == 0
    )
    (workplace / "sub").mkdir()
    monkeypatch.chdir("sub")
    arguments = ["distill", "--store", "../d.kd", *RUN, "--loss", "kd", "--out", "run"]
    outcome = cli(*arguments)
    assert outcome.code == 2
    expected = "The store names its data 'folder:photos', which cannot be read from here ('photos' is not a folder)."
    assert f"{expected} Give --data SPEC." in outcome.err
    assert cli(*arguments, "--data", "folder:../photos").code == 0


def test_a_run_from_a_store_that_was_given_more_views_says_so(cli: Cli) -> None:
    made = ["extract", "--data", "digits,split=test", "--teacher", "python:my_teachers:teacher", "--out", "d.kd"]
    made += ["--augment", "crop-flip,size=8,padding=1", "--views"]
    arguments = ["distill", "--store", "d.kd", *RUN, "--loss", "kd", "--views", "1", "--out", "run"]
    assert cli(*made, "1").code == 0
    assert cli(*arguments).code == 0
    assert cli(*made, "2").code == 0
    outcome = cli(*arguments)
    assert outcome.code == 3
    assert "resolved.store-views is 1 there, 2 here" in outcome.err


def test_the_resolved_configuration_can_be_run_again(cli: Cli, store: str) -> None:
    assert cli("distill", "--store", store, *RUN, "--loss", "kd,temperature=3", "--out", "one").code == 0
    assert cli("distill", "--config", "one/config.json", "--out", "two").code == 0
    assert Path("one/student.safetensors").read_bytes() == Path("two/student.safetensors").read_bytes()


def test_ema_clipping_schedule_and_tensorboard(cli: Cli, store: str) -> None:
    extras = ["--ema", "0.9", "--clip-grad", "1", "--schedule", "step", "--milestones", "1", "--optimizer", "adamw",
              "--lr", "0.001", "--tensorboard", "--warmup-epochs", "0.5", "--precision", "bf16"]  # fmt: skip
    outcome = cli("distill", "--store", store, *RUN, "--loss", "kd", *extras, "--out", "run")
    assert outcome.code == 0, outcome.err
    assert list(Path("run/tensorboard").iterdir())


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"--loss": "gkrd"}, 2, "Did you mean 'grkd'?"),
        ({"--loss": "ltkd,temprature=2"}, 2, "Did you mean 'temperature'?"),
        ({"--loss": "kd,temperature=0"}, 2, "temperature"),
        ({"--loss": "kd + grkd"}, 2, "Give each by a --loss of its own"),
        ({"--student": "kdpipe:resnet_20"}, 2, "Did you mean 'resnet20'?"),
        ({"--student": "torchvision:resnet18"}, 2, "channels=3"),
        ({"--store": "nowhere.kd"}, 3, "Is this a kdpipe store?"),
        ({"--data": "digits,split=test"}, 3, "No sample of the data set is in"),
        ({"--preprocess": "image,std=0.5"}, 3, "std is (1.0,) there, (0.5,) here"),
        ({"--val": "fashion-mnist:nowhere"}, 2, "There is no train-images"),
        ({"--optimizer": "sdg"}, 2, "sgd"),
        ({"--lr": "-1"}, 2, "must be above 0"),
        ({"--milestones": "1,x"}, 2, "not a list of whole numbers"),
        ({"--ema": "2"}, 2, "between 0 and 1"),
        ({"--cache-size": "0.0001kB"}, 2, "must be above 0"),
        ({"--device": "cuda:9"}, 2, "is not there"),
        ({"--groups": "single"}, 2, "The store has the class groups. Leave --groups out"),
        ({"--recipe": "mine/my.toml"}, 2, "Give a file as --config mine/my.toml"),
    ],
)
def test_wrong_usage_writes_nothing(cli: Cli, store: str, changes: dict[str, str], code: int, message: str) -> None:
    flags = {"--store": store, "--student": "kdpipe:convnet_tiny", "--loss": "kd", "--out": "run", **changes}
    outcome = cli("distill", *(part for flag in flags.items() for part in flag))
    assert (outcome.code, message in outcome.err) == (code, True), outcome.err
    assert not Path("run").exists()


def test_several_students_are_not_one(cli: Cli, store: str) -> None:
    outcome = cli("distill", "--store", store, "--student", "kdpipe:resnet20", *RUN, "--loss", "kd", "--out", "run")
    assert outcome.code == 2
    assert "'--student': it is given 2 times. Give one; to compare: kdpipe sweep" in outcome.err
    assert not Path("run").exists()


def test_a_loss_that_needs_what_the_store_lacks_is_refused_by_name(cli: Cli, ranks_only: str) -> None:
    outcome = cli("distill", "--store", ranks_only, *RUN, "--loss", "ltkd", "--out", "run")
    assert outcome.code == 3
    assert "The loss 'ltkd' needs 'logits'" in outcome.err
    assert cli("distill", "--store", ranks_only, *RUN, "--loss", "grkd", "--out", "run").code == 0


def test_what_is_left_out_and_what_proves_nothing_is_said(
    cli: Cli, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    fewer = f"{DATA},max_per_class=20"
    assert cli("distill", "--store", store, "--data", fewer, "--val", fewer, *RUN, "--out", "run").code == 0
    there, here = (len(load_data(spec)) for spec in (DATA, fewer))
    assert f"{there - here} of the {there} samples of d.kd are not in the data and are left out" in caplog.text
    assert "--val is the training data itself" in caplog.text
    assert "learns from labels alone: the store's logits are not read. Give --loss kd" in caplog.text
    caplog.clear()
    assert cli("distill", "--store", store, *RUN, "--loss", "ce", "--out", "asked").code == 0
    assert "from labels alone" not in caplog.text


def test_a_loss_without_a_store_says_so(cli: Cli) -> None:
    outcome = cli("distill", "--data", DATA, *RUN, "--loss", "grkd", "--out", "run")
    assert outcome.code == 2
    assert "The loss grkd needs a teacher's store" in outcome.err


def test_a_store_that_names_code_is_not_run(cli: Cli, workplace: Path) -> None:
    (workplace / "my_data.py").write_text(
        "import torch, pathlib\npathlib.Path('imported').touch()\n"
        "class D:\n    def __len__(self): return 20\n"
        "    def __getitem__(self, i): return torch.full((1, 8, 8), i / 20.0), i % 10\n"
        "def data(): return D()\n"
    )
    arguments = ["--data", "python:my_data:data", "--teacher", "python:my_teachers:teacher", "--out", "d.kd"]
    assert cli("extract", *arguments).code == 0
    Path("imported").unlink()
    import sys

    del sys.modules["my_data"]
    outcome = cli("distill", "--store", "d.kd", *RUN, "--loss", "kd", "--out", "run")
    assert outcome.code == 2
    assert "may run code" in outcome.err
    assert not Path("imported").exists()
    manifest = Manifest.read(Path("d.kd"))
    for spec in ("torchvision:LSUNClass,root=lmdb", "torchvision:MNIST,root=anywhere,download=true"):
        dataclasses.replace(manifest, dataset=dataclasses.replace(manifest.dataset, spec=spec)).write(Path("d.kd"))
        outcome = cli("distill", "--store", "d.kd", *RUN, "--loss", "kd", "--out", "run")
        assert outcome.code == 2
        assert "may run code or fetch something" in outcome.err
        assert not Path("anywhere").exists()
    manifest.write(Path("d.kd"))
    assert (
        cli("distill", "--store", "d.kd", "--data", "python:my_data:data", *RUN, "--loss", "kd", "--out", "run").code
        == 0
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("assert x.shape[1] == 3, 'three channels'", "cannot take inputs of shape (64, 1, 8, 8): three channels"),
        ("return (x, x)", "gives a tuple in training"),
        ("return x.flatten(1)[:, :7] * self.w", "gives (64, 7) in training, not logits of shape (64, 10)"),
    ],
)
def test_a_student_that_does_not_fit_says_how(cli: Cli, store: str, workplace: Path, body: str, message: str) -> None:
    (workplace / f"my_student{hash(body) % 1000}.py").write_text(
        "import torch\nclass S(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        f"        self.w = torch.nn.Parameter(torch.ones(1))\n    def forward(self, x):\n        {body}\n"
        "def student(): return S()\n"
    )
    student = f"python:my_student{hash(body) % 1000}:student"
    outcome = cli("distill", "--store", store, "--student", student, *RUN[2:], "--loss", "kd", "--out", "run")
    assert outcome.code in (1, 2)
    assert message in outcome.err


def test_allow_mismatch_keeps_the_reason(cli: Cli, store: str) -> None:
    arguments = ["distill", "--store", store, *RUN, "--loss", "kd", "--preprocess", "image,std=0.5", "--out", "run"]
    outcome = cli(*arguments, "--allow-mismatch", "an ablation", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out)["allow_mismatch"] == "an ablation"


def test_resume_refuses_to_begin(cli: Cli, store: str) -> None:
    arguments = ["distill", "--store", store, *RUN, "--loss", "kd", "--out", "run"]
    outcome = cli(*arguments, "--resume")
    assert outcome.code == 3
    assert "no checkpoint to go on from" in outcome.err
    assert cli(*arguments).code == 0
    assert cli(*arguments, "--resume").code == 0, "a finished run is left alone"


def test_one_loss_in_a_configuration_needs_no_list(cli: Cli, store: str, workplace: Path) -> None:
    (workplace / "c.toml").write_text(
        'loss = "kd"\nstudent = "kdpipe:convnet_tiny"\nepochs = 1\n', encoding="utf-8-sig"
    )
    outcome = cli("distill", "--config", "c.toml", "--store", store, "--out", "run", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["loss"] == ["kd"]
    assert Path("run/student.safetensors").stat().st_mode & 0o777 == Path("run/summary.json").stat().st_mode & 0o777
