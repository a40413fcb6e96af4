"""Extraction as a whole: the same store whichever way it is made, and nothing lost when it is interrupted."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import BadSampleError, KdpipeError, StoreWriter, open_store
from PIL import Image
from torch import nn

TEACHER = "python:linear_teacher:teacher"
MODULE = """
import torch
from torch import nn
calls = []
class Teacher(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        torch.manual_seed(1)
        self.fc = nn.Linear(64, num_classes)
    def forward(self, x):
        calls.append(len(x))
        return self.fc(x.flatten(1))
def teacher(num_classes): return Teacher(num_classes)
"""


@pytest.fixture(autouse=True)
def teacher_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linear_teacher.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "linear_teacher", raising=False)


def config(out: str, **settings: object) -> ExtractConfig:
    base = {"data": "digits,split=train", "teacher": TEACHER, "out": Path(out), "chunk_rows": 200, "batch_size": 64}
    return ExtractConfig(**{**base, **settings})  # pyright: ignore[reportArgumentType]


def content(root: Path) -> dict[str, str]:
    """Every file's hash but the manifest's, which holds times."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def direct_logits(data: str) -> np.ndarray:
    import linear_teacher  # pyright: ignore[reportMissingImports]

    samples = load_data(data)
    inputs = torch.stack([Preprocessing().one(samples.raw(i)) for i in range(len(samples))])
    module: nn.Module = linear_teacher.teacher(10)
    with torch.no_grad():
        return module(inputs).numpy()


def test_the_store_holds_what_the_teacher_says() -> None:
    manifest = extract(config("d.kd", codec="float32")).manifest
    store = open_store("d.kd")
    expected = direct_logits("digits,split=train")
    read = store.read(np.arange(len(store)), arrays=("logits", "ranks"))
    np.testing.assert_allclose(read["logits"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(read["ranks"], np.argsort(-read["logits"], axis=1, kind="stable"))
    samples = store.samples()
    assert samples["sample_id"].to_pylist() == load_data("digits,split=train").sample_ids.to_pylist()
    np.testing.assert_array_equal(samples["teacher_top1"].to_numpy(), expected.argmax(1))
    probabilities = np.exp(expected - expected.max(1, keepdims=True)).astype(np.float64)
    probabilities /= probabilities.sum(1, keepdims=True)
    np.testing.assert_allclose(samples["teacher_confidence"].to_numpy(), probabilities.max(1), rtol=1e-4)
    entropy = -(probabilities * np.log(probabilities)).sum(1)
    np.testing.assert_allclose(samples["teacher_entropy"].to_numpy(), entropy, rtol=1e-4)
    correct = expected.argmax(1) == samples["label"].to_numpy()
    np.testing.assert_array_equal(samples["teacher_correct"].to_numpy(), correct)
    assert manifest.accuracy is not None
    assert manifest.accuracy.overall == pytest.approx(correct.mean())


def test_ranks_are_taken_before_rounding() -> None:
    """Two logits that round to one float16 keep their float32 order in the ranks."""
    Path("linear_teacher.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class T(nn.Module):\n"
        "    def forward(self, x): return torch.tensor([1.0, 1.0001] + [0.0] * 8).repeat(len(x), 1)\n"
        "def teacher(): return T()\n"
    )
    extract(config("d.kd"))
    read = open_store("d.kd").read([0], arrays=("logits", "ranks"))
    assert read["logits"][0, 0] == read["logits"][0, 1]
    assert read["ranks"][0].tolist() == [1, 0, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_store_whatever_the_workers(workers: int) -> None:
    extract(config("one.kd"))
    extract(config("two.kd", workers=workers))
    assert content(Path("one.kd")) == content(Path("two.kd"))


def test_an_interrupted_extraction_goes_on_with_the_missing_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    extract(config("whole.kd"))
    written = []
    original = StoreWriter.write_chunk

    def two_then_fail(self: StoreWriter, chunk: int, *rest: object) -> object:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(chunk)
        return original(self, chunk, *rest)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_chunk", two_then_fail)
        with pytest.raises(OSError, match="No space left"):
            extract(config("d.kd"))
    with pytest.raises(KdpipeError, match="not finished"):
        open_store("d.kd")
    import linear_teacher  # pyright: ignore[reportMissingImports]

    linear_teacher.calls.clear()
    result = extract(config("d.kd"))
    assert result.computed == 898 - 400
    assert sum(linear_teacher.calls) == 498 + 1, "the teacher only sees what is missing, and one sample to try it"
    assert content(Path("d.kd")) == content(Path("whole.kd"))


def test_no_batch_straddles_two_chunks() -> None:
    import linear_teacher  # pyright: ignore[reportMissingImports]

    linear_teacher.calls.clear()
    extract(config("d.kd"))
    assert linear_teacher.calls[1:] == [64, 64, 64, 8] * 4 + [64, 34]


def test_rank_depth_order_and_arrays() -> None:
    extract(config("all.kd"))
    extract(config("cut.kd", rank_depth=3, write=("ranks",), order="shuffled:7"))
    whole, cut = open_store("all.kd"), open_store("cut.kd")
    ids = cut.samples(["sample_id"])["sample_id"].to_pylist()
    place = {sample_id: row for row, sample_id in enumerate(whole.samples(["sample_id"])["sample_id"].to_pylist())}
    rows = np.array([place[sample_id] for sample_id in ids])
    assert sorted(rows.tolist()) == list(range(898))
    assert rows.tolist() != list(range(898))
    read = cut.read(np.arange(898), arrays=("ranks",))["ranks"]
    np.testing.assert_array_equal(read, whole.read(rows, arrays=("ranks",))["ranks"][:, :3])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def test_an_unreadable_image_is_named_or_skipped(photos: Path) -> None:
    (photos / "dog" / "3.png").write_bytes(b"not an image")
    folder = {"data": f"folder:{photos}", "batch_size": 4, "chunk_rows": 4}
    with pytest.raises(BadSampleError, match=r"dog/3\.png cannot be read as an image"):
        extract(config("d.kd", **folder))
    with pytest.raises(BadSampleError, match=r"dog/3\.png cannot be read as an image"):
        extract(config("d.kd", **folder, workers=2))
    extract(config("skipped.kd", **folder, on_bad_sample="skip"))
    ids = open_store("skipped.kd").samples(["sample_id"])["sample_id"].to_pylist()
    assert len(ids) == 11
    assert open_store("skipped.kd").manifest.dataset.unreadable == 1
    assert "dog/3.png" not in ids


def test_unreadable_images_at_the_beginning_are_skipped_too(photos: Path) -> None:
    first = sorted((photos / "cat").glob("*.png"))
    for path in first[:2]:
        path.write_bytes(b"not an image")
    result = extract(config("skipped.kd", data=f"folder:{photos}", on_bad_sample="skip"))
    assert (result.manifest.num_samples, result.manifest.dataset.unreadable) == (10, 2)
    for path in photos.rglob("*.png"):
        path.write_bytes(b"not an image")
    with pytest.raises(BadSampleError, match="No sample"):
        extract(config("none.kd", data=f"folder:{photos}", on_bad_sample="skip"))


def test_images_of_different_sizes_need_a_preprocessing(photos: Path) -> None:
    Image.new("L", (9, 9)).save(photos / "cat" / "x.png")
    with pytest.raises(KdpipeError, match="different shapes"):
        extract(config("d.kd", data=f"folder:{photos}", chunk_rows=20))
    extract(config("e.kd", data=f"folder:{photos}", chunk_rows=20, preprocess="image,resize=8,crop=8"))


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """At most two chunks are held: the peak of a run over 8 times the rows stays within a few chunks."""
    import subprocess
    import sys

    script = tmp_path / "grow.py"
    script.write_text(
        "import sys, resource, torch, numpy as np\nfrom pathlib import Path\n"
        "class D:\n"
        "    def __init__(self, n): self.targets = np.arange(n) % 500\n"
        "    def __len__(self): return len(self.targets)\n"
        "    def __getitem__(self, i): return torch.full((1, 4, 4), float(i % 7)), int(self.targets[i])\n"
        "def data(n): return D(n)\n"
        "class T(torch.nn.Module):\n"
        "    def forward(self, x): return (x.flatten(1)[:, :1] + 1) * torch.arange(500.0) / 500\n"
        "def teacher(): return T()\n"
        "if __name__ == '__main__':\n"
        "    from kdpipe.pipeline import ExtractConfig, extract\n"
        "    n = sys.argv[1]\n"
        "    extract(ExtractConfig(data=f'python:grow:data,n={n}', teacher='python:grow:teacher',\n"
        "                          out=Path(f'{n}.kd'), codec='float32', chunk_rows=2048, batch_size=512))\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = [
        int(subprocess.run([sys.executable, script, str(n)], check=True, capture_output=True, text=True).stdout)
        for n in (4_096, 32_768)
    ]
    payload_kb = 32_768 * 500 * (4 + 2) / 1024  # 98 MB
    assert peaks[1] - peaks[0] < payload_kb / 3
