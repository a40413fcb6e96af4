"""Arrays of logits become stores that hold what the arrays hold, whatever file they lie in; and no file is ever run."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from kdpipe.pipeline import DistillConfig, distill
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.importing import ImportConfig, import_store
from kdpipe.stores import BadLogitsError, CorruptStoreError, KdpipeError, MismatchError, UsageError, open_store
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.codecs import LogitCodec
from safetensors.torch import save_file

N, C = 250, 7
CLASSES = [f"class {number}" for number in range(C)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("classes.txt").write_text("\n".join(CLASSES) + "\n")
    Path("ids.txt").write_text("".join(f"a/{number}.jpg\n" for number in range(N)))
    np.save("labels.npy", labels())
    return tmp_path


def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 4, (N, C)).astype(np.float32)


def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, C, N)


def config(source: str, **settings: object) -> ImportConfig:
    base = {
        "source": Path(source), "out": Path("out.kd"), "classes": "classes.txt", "labels": "labels.npy",
        "ids": "ids.txt", "chunk_rows": 64,
    }  # fmt: skip
    return ImportConfig(**{**base, **settings})  # pyright: ignore[reportArgumentType]


def write_npy() -> str:
    np.save("logits.npy", logits())
    return "logits.npy"


def write_fortran() -> str:
    np.save("fortran.npy", np.asfortranarray(logits()))
    return "fortran.npy"


def write_npz() -> str:
    np.savez_compressed("logits.npz", teacher=np.zeros(3), logits=logits())
    return "logits.npz"


def write_pt() -> str:
    torch.save({"logits": torch.from_numpy(logits()), "note": "mine"}, "logits.pt")
    return "logits.pt"


def write_old_pt() -> str:
    torch.save(torch.from_numpy(logits()), "old.pth", _use_new_zipfile_serialization=False)
    return "old.pth"


def write_safetensors() -> str:
    save_file({"logits": torch.from_numpy(logits())}, "logits.safetensors")
    return "logits.safetensors"


WRITERS = [write_npy, write_fortran, write_npz, write_pt, write_old_pt, write_safetensors]


@pytest.mark.parametrize("write", WRITERS)
def test_the_store_holds_what_the_file_holds(folder: Path, write: object) -> None:
    manifest = import_store(config(write()))  # pyright: ignore[reportCallIssue]
    assert verify(folder / "out.kd", deep=True).findings == ()
    store = open_store("out.kd")
    read = store.read(np.arange(N), arrays=("logits", "ranks"))
    assert read["logits"].dtype == np.float32
    np.testing.assert_array_equal(read["logits"], logits())
    np.testing.assert_array_equal(read["ranks"], np.argsort(-logits(), 1, kind="stable"))
    samples = store.samples()
    assert samples["sample_id"].to_pylist() == Path("ids.txt").read_text().splitlines()
    assert samples["label"].to_pylist() == labels().tolist()
    assert samples["teacher_top1"].to_pylist() == logits().argmax(1).tolist()
    chances = np.exp(logits().astype(np.float64))
    chances /= chances.sum(1, keepdims=True)
    np.testing.assert_allclose(samples["teacher_confidence"].to_numpy(), chances.max(1), rtol=1e-5)
    np.testing.assert_allclose(samples["teacher_entropy"].to_numpy(), -(chances * np.log(chances)).sum(1), rtol=1e-4)
    assert store.class_names == CLASSES
    assert manifest.teacher.spec.startswith("imported:")
    assert manifest.teacher.checksum.startswith("xxh3-128:")
    assert manifest.accuracy is not None
    assert manifest.accuracy.overall == pytest.approx((logits().argmax(1) == labels()).mean())


@pytest.mark.parametrize("codec", ["float16", "float16+zstd", "int8", "topk:3"])
def test_any_codec_of_logits(folder: Path, codec: str) -> None:
    manifest = import_store(config(write_npy(), codec=codec))
    assert verify(folder / "out.kd", deep=True).findings == ()
    if isinstance(manifest.logit_codec, LogitCodec):
        error = np.abs(open_store("out.kd").read(np.arange(N))["logits"].astype(np.float64) - logits())
        assert (error <= 1.001 * manifest.logit_codec.error_bound(logits(), {}) + 1e-6).all()


@pytest.mark.parametrize(("dtype", "codec"), [("float16", "float16"), ("bfloat16", "float32"), ("float64", "float32")])
def test_by_default_nothing_is_lost(folder: Path, dtype: str, codec: str) -> None:
    values = torch.from_numpy(logits()).to(getattr(torch, dtype))
    torch.save({"z": values}, "logits.pt")
    manifest = import_store(config("logits.pt", logits="z"))
    assert manifest.logit_codec.name == codec
    np.testing.assert_array_equal(open_store("out.kd").read(np.arange(N))["logits"], values.float().numpy())


def test_ids_labels_and_classes_may_lie_beside_the_logits(folder: Path) -> None:
    names = [CLASSES[label] for label in labels()]
    np.savez("all.npz", logits=logits(), key=np.arange(N), label=np.array(names), classes=np.array(CLASSES))
    import_store(config("all.npz", ids="key", labels="label", classes="classes"))
    store = open_store("out.kd")
    assert store.samples()["sample_id"].to_pylist() == [str(number) for number in range(N)]
    assert store.samples()["label"].to_pylist() == labels().tolist()


def test_texts_may_begin_with_a_byte_order_mark(folder: Path) -> None:
    np.save("logits.npy", logits())
    texts = {"ids": [f"{number:03}" for number in range(N)], "labels": labels().tolist(), "classes": CLASSES}
    for name, values in texts.items():
        Path(f"{name}.txt").write_text("\n".join(map(str, values)), encoding="utf-8-sig")
    import_store(config("logits.npy", ids="ids.txt", labels="labels.txt", classes="classes.txt"))
    store = open_store("out.kd")
    assert store.samples()["sample_id"][0].as_py() == "000"
    assert store.samples()["label"].to_pylist() == labels().tolist()
    assert list(store.class_names) == list(CLASSES)


def test_the_same_import_changes_nothing_and_another_is_refused(folder: Path) -> None:
    import_store(config(write_npy()))
    times = {path: path.stat().st_mtime_ns for path in (folder / "out.kd").rglob("*")}
    import_store(config("logits.npy"))
    assert {path: path.stat().st_mtime_ns for path in (folder / "out.kd").rglob("*")} == times
    np.save("logits.npy", logits() + 1)
    with pytest.raises(MismatchError, match="other settings"):
        import_store(config("logits.npy"))


def test_a_killed_import_goes_on(folder: Path) -> None:
    rows = 5_000
    np.save("logits.npy", np.random.default_rng(0).normal(size=(rows, C)).astype(np.float32))
    np.save("labels.npy", np.zeros(rows, np.int64))
    np.save("ids.npy", np.arange(rows))
    command = [
        sys.executable, "-m", "kdpipe", "store", "import", "logits.npy", "--out", "out.kd", "--classes", "classes.txt",
        "--labels", "labels.npy", "--ids", "ids.npy", "--chunk-rows", "64",
    ]  # fmt: skip
    started = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL)
    receipts = folder / "out.kd" / "receipts"
    while not (receipts.is_dir() and len(list(receipts.iterdir())) > 3):
        assert started.poll() is None
        time.sleep(0.01)
    started.send_signal(signal.SIGKILL)
    started.wait()
    kept = {path: path.stat().st_mtime_ns for path in receipts.glob("*.json")}
    assert 0 < len(kept) < rows // 64
    import_store(config("logits.npy", ids="ids.npy"))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert verify(folder / "out.kd", deep=True).findings == ()


class Trap:
    """Unpickled, it leaves a mark."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch sprung",)


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt", "pth"])
def test_no_file_is_run(folder: Path, suffix: str) -> None:
    objects = np.array([Trap(), Trap()], object)
    name = f"trap.{suffix}"
    if suffix == "npy":
        np.save(name, objects, allow_pickle=True)
    elif suffix == "npz":
        np.savez(name, logits=objects)
    elif suffix == "pt":
        torch.save({"logits": Trap()}, name)
    else:
        Path(name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(KdpipeError, match=r"pickle|running code"):
        import_store(config(name))
    assert not (folder / "sprung").exists()
    assert not (folder / "out.kd").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"source": Path("nowhere.npy")}, UsageError, "no file"),
        ({"source": Path("ids.txt")}, UsageError, r"none of \.npy"),
        ({"labels": "nowhere"}, UsageError, "neither|no file"),
        ({"logits": "logitz"}, UsageError, "array"),
        ({"codec": "factorised"}, UsageError, "stores features"),
        ({"classes": "ids.txt"}, UsageError, "7 classes"),
        ({"ids": "classes.txt"}, MismatchError, "7 sample ids"),
        ({"labels": "bad_labels.npy"}, MismatchError, "from 0 to 9"),
        ({"labels": "odd_labels.txt"}, UsageError, "'eel'"),
        ({"ids": "twice.txt"}, MismatchError, "'same'"),
        ({"source": Path("wide.npy")}, UsageError, "samples, classes"),
        ({"source": Path("whole.npy")}, UsageError, "floating-point"),
        ({"source": Path("complex.npy")}, UsageError, "complex64 .* floating-point"),
        ({"source": Path("short.npy")}, UsageError, "100 rows"),
        ({"source": Path("cut.npy")}, KdpipeError, "cannot be read"),
        ({"source": Path("nan.npy")}, BadLogitsError, r"'a/70\.jpg' \(row 70\) are not finite .*\)\. Leave"),
        ({"source": Path("equal.npy")}, BadLogitsError, r"'a/3\.jpg' \(row 3\) are all equal, and those of 1 more"),
        ({"source": Path("large.npy"), "codec": "float16"}, BadLogitsError, "float32"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("error::numpy.exceptions.ComplexWarning")
def test_bad_inputs_are_named(folder: Path, change: dict[str, object], error: type[Exception], message: str) -> None:
    values = logits()
    np.save("logits.npy", values)
    np.save("bad_labels.npy", np.arange(N) % 10)
    Path("odd_labels.txt").write_text("eel\n" * N)
    Path("twice.txt").write_text("same\n" * N)
    np.save("wide.npy", values[None])
    np.save("whole.npy", values.astype(np.int64))
    np.save("complex.npy", values.astype(np.complex64))
    np.save("short.npy", values[:100])
    Path("cut.npy").write_bytes(Path("logits.npy").read_bytes()[:1000])
    for name, row, value in (("nan", 70, np.nan), ("equal", [3, 5], 1.0), ("large", 9, 1e6)):
        spoilt = values.copy()
        spoilt[row] = value if name != "large" else np.arange(C) * value
        np.save(f"{name}.npy", spoilt)
    with pytest.raises(error, match=message):
        import_store(config(**{"source": "logits.npy", **change}))
    assert not (folder / "out.kd").exists() or not open_finished(folder / "out.kd")


def open_finished(path: Path) -> bool:
    try:
        open_store(path)
    except KdpipeError:
        return False
    return True


def test_a_store_that_is_not_its_source_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdpipe.pipeline.importing import convert, files

    real, calls = files.as_float32, []

    def other(rows: object) -> np.ndarray:
        calls.append(rows)
        return real(rows) + (np.float32(0.5) if len(calls) > 5 else 0) * np.arange(C, dtype=np.float32)

    source = write_npy()
    monkeypatch.setattr(convert, "as_float32", other)
    with pytest.raises(CorruptStoreError, match="not what"):
        import_store(config(source))


def test_students_train_from_it(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = load_data("digits,split=train")
    rows = np.random.default_rng(0).permutation(len(samples))
    np.save("logits.npy", np.random.default_rng(0).normal(0, 4, (len(rows), 10)).astype(np.float32))
    np.save("labels.npy", samples.labels[rows])
    np.save("ids.npy", np.array([samples.sample_ids[int(row)].as_py() for row in rows]))
    Path("classes.txt").write_text("\n".join(samples.class_names))
    import_store(config("logits.npy", ids="ids.npy", chunk_rows=None))
    training = {
        "store": Path("out.kd"), "student": "kdpipe:convnet_tiny", "data": "digits,split=train", "epochs": 1,
        "loss": ("kd", "ltkd", "grkd"), "out": Path("run"),
    }  # fmt: skip
    with caplog.at_level(logging.WARNING):
        distill(DistillConfig(**training))  # pyright: ignore[reportArgumentType]
    assert "was imported" in caplog.text
    np.save("labels.npy", (samples.labels[rows] + 1) % 10)
    import_store(config("logits.npy", ids="ids.npy", out=Path("wrong.kd")))
    with pytest.raises(MismatchError, match="another label"):
        distill(DistillConfig(**{**training, "store": Path("wrong.kd"), "out": Path("run2")}))  # pyright: ignore
