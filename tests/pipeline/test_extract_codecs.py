"""Extraction with every codec: what is stored is what the teacher says, within the codec's bound, and replay agrees."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.features import LastLayer
from kdpipe.pipeline.recheck import recheck
from kdpipe.stores import BadLogitsError, KdpipeError, MismatchError, UsageError, open_store
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.codecs import LogitCodec
from kdpipe.stores.layout import array_file
from torch import nn

DATA = "digits,split=train,max_per_class=30"
TEACHER = "python:narrow_teacher:teacher"
MODULE = """
import torch
from torch import nn
class Teacher(nn.Module):
    def __init__(self, num_classes, scale, after):
        super().__init__()
        torch.manual_seed(1)
        self.body, self.fc, self.scale, self.after = nn.Linear(64, 4), nn.Linear(4, num_classes), scale, after
    def forward(self, x):
        logits = self.fc(self.body(x.flatten(1)).relu() * self.scale) * self.after
        return logits
def teacher(num_classes, scale=3.0, after=1.0): return Teacher(num_classes, float(scale), float(after))
def wide(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
def without(num_classes): return nn.Sequential(nn.Conv2d(1, num_classes, 8), nn.Flatten())
"""
CODECS = [
    "float16", "float32+zstd", "int8", "int8+zstd", "topk:3", "topk:10,temperatures=1,2.5+zstd", "factorised",
    "factorised:4+zstd",
]  # fmt: skip


@pytest.fixture(autouse=True)
def teacher_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "narrow_teacher.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "narrow_teacher", raising=False)


def config(codec: str, **settings: object) -> ExtractConfig:
    base = {"data": DATA, "teacher": TEACHER, "out": Path("a.kd"), "chunk_rows": 100, "batch_size": 32, "codec": codec}
    return ExtractConfig(**{**base, **settings})  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What a float32 store of the same teacher holds."""
    folder = tmp_path_factory.mktemp("float32")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "narrow_teacher.py").write_text(MODULE)
        patch.syspath_prepend(folder)
        patch.delitem(sys.modules, "narrow_teacher", raising=False)
        extract(config("float32", out=folder / "a.kd"))
        store = open_store(folder / "a.kd")
        return store.read(np.arange(len(store)))["logits"]


@pytest.mark.parametrize("codec", CODECS)
def test_the_store_holds_what_the_teacher_says(codec: str, expected: np.ndarray) -> None:
    manifest = extract(config(codec)).manifest
    assert verify("a.kd", deep=True).findings == ()
    store = open_store("a.kd")
    rows, coding = np.arange(len(store)), manifest.logit_codec
    assert str(coding) == {"topk:3": "topk:3,temperatures=1,4", "factorised": "factorised:4"}.get(codec, codec)
    np.testing.assert_array_equal(
        store.read(rows, arrays=("ranks",))["ranks"], np.argsort(-expected, axis=1, kind="stable")
    )
    if isinstance(coding, LogitCodec):
        values = store.read(rows, arrays=("features",))["features"] if coding.source == "features" else expected
        error = np.abs(store.read(rows)["logits"].astype(np.float64) - expected)
        assert (error <= 1.001 * coding.error_bound(values.astype(np.float32), store.constants) + 1e-5).all()
    else:
        read = store.read(rows, arrays=("top_classes", "top_logits", "logsumexp", "group_logsumexp"))
        again = coding.encode(expected, store.class_groups)
        for name, values in read.items():
            np.testing.assert_array_equal(values, again[name])


@pytest.mark.parametrize("codec", CODECS)
def test_replay_agrees_with_what_is_stored(codec: str) -> None:
    extract(config(codec))
    replay = recheck("a.kd", teacher=TEACHER, data=DATA, rows=50)
    assert replay.findings == ()
    assert replay.rows == 50
    assert replay.largest_difference is not None
    assert replay.largest_difference < (0.05 if codec.startswith("int8") else 0.01)


@pytest.mark.parametrize(
    ("codec", "array", "place", "change"),
    [
        ("int8", "logit_codes", (3, 5), 60),
        ("int8", "logit_scale", (3, 0), 0.5),
        ("topk:3", "top_logits", (3, 1), 0.3),
        ("topk:3", "top_classes", (3, 2), 1),
        ("topk:3", "logsumexp", (3, 1), 0.2),
        ("topk:3", "group_logsumexp", (3, 1), 0.2),
        ("factorised", "features", (3, 0), 2.0),
    ],
)
def test_replay_finds_what_checksums_cannot(codec: str, array: str, place: tuple[int, int], change: float) -> None:
    manifest = extract(config(codec)).manifest
    info = manifest.array(array)
    assert info is not None
    path = Path("a.kd") / array_file(array, 0, 0)
    values = np.fromfile(path, info.dtype).reshape(-1, info.width)
    values[place] += np.array(change, info.dtype)
    values.tofile(path)
    findings = recheck("a.kd", teacher=TEACHER, data=DATA, rows=len(open_store("a.kd"))).findings
    assert {finding.chunk for finding in findings} == {0}
    kind = {"logit_codes": "logit_codes", "logit_scale": "logit_codes", "features": "features"}.get(array, array)
    assert array_file(kind, 0, 0) in {finding.path for finding in findings}
    assert all("in 1 of 100 rows" in finding.problem for finding in findings)


@pytest.mark.parametrize("codec", ["int8+zstd", "topk:3", "factorised"])
def test_interrupted_or_not_the_bytes_are_the_same(codec: str) -> None:
    extract(config(codec, out=Path("whole.kd")))

    def interrupt(progress) -> None:
        if progress.computed > 120:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(config(codec), interrupt)
    extract(config(codec))
    for path in sorted(Path("whole.kd").rglob("*")):
        if path.is_file() and path.name != "manifest.json":
            assert path.read_bytes() == (Path("a.kd") / path.relative_to("whole.kd")).read_bytes(), path


def test_another_codec_does_not_go_into_the_same_store() -> None:
    extract(config("int8"))
    with pytest.raises(MismatchError, match="codec"):
        extract(config("int8+zstd"))


def test_plain_codecs_of_ranks_alone_are_one_store() -> None:
    extract(config("float16", write=("ranks",)))
    assert extract(config("int8", write=("ranks",))).computed == 0


@pytest.mark.parametrize(
    ("codec", "settings", "error", "says"),
    [
        ("topk:11", {}, UsageError, "topk:11 keeps more classes than the 10"),
        ("topk:0", {}, UsageError, "keeps no class"),
        ("int4", {}, UsageError, "Unknown codec 'int4'"),
        ("factorised:5", {}, UsageError, "the teacher has 4 features"),
        (
            "factorised",
            {"teacher": "python:narrow_teacher:wide"},
            UsageError,
            "makes no sense here: the teacher has 64",
        ),
        (
            "factorised",
            {"teacher": "python:narrow_teacher:without"},
            UsageError,
            "needs a teacher with a last nn.Linear",
        ),
        ("factorised", {"teacher": f"{TEACHER},after=2"}, MismatchError, "something follows it"),
        (
            "factorised",
            {"teacher": f"{TEACHER},scale=1e6"},
            BadLogitsError,
            "features pass factorised:4's largest number, 65504, for digits/",
        ),
        ("float16", {"teacher": f"{TEACHER},after=1e6"}, BadLogitsError, "pass float16's largest number, 65504"),
        (
            "int8",
            {"teacher": f"{TEACHER},after=1e38"},
            BadLogitsError,
            "(not finite|pass int8's largest number, 1e.38)",
        ),
    ],
)
def test_what_cannot_be_stored_is_refused(codec: str, settings: dict, error: type[KdpipeError], says: str) -> None:
    with pytest.raises(error, match=says):
        extract(config(codec, **settings))


def test_features_of_the_last_pass() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 7))
    layer = LastLayer(network, "fp32")
    layer.watch()
    inputs = torch.randn(6, 5)
    features = layer.take(network(inputs))
    torch.testing.assert_close(features, network[:2](inputs))
    constants = layer.constants(7)
    made = features.detach().numpy() @ constants["classifier_weight"].T + constants["classifier_bias"]
    np.testing.assert_allclose(made, network(inputs).detach().numpy(), rtol=1e-5, atol=1e-6)
    layer.take(network(inputs))
    with pytest.raises(MismatchError, match="took no part in its pass, or cannot be watched"):
        layer.take(torch.zeros(6, 7))
    network(inputs)
    with pytest.raises(MismatchError, match=r"is given \(6, 3\) for 5 inputs, not \(5, 3\)"):
        layer.take(torch.zeros(5, 7))
    with pytest.raises(MismatchError, match="gives 7 outputs for 8 classes"):
        layer.constants(8)
