"""Data sets in columns, as Parquet files and as Hugging Face saves them: the same samples either way."""

import importlib.util
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.data import Samples, load_data
from kdpipe.stores import open_store
from kdpipe.stores.errors import BadSampleError, UsageError
from PIL import Image

N = 23
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 12, 10, 3), np.uint8)
LABELS = np.arange(N) % 3
NAMES = ("cat", "dog", "eel")


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


FILES = [png(pixels) for pixels in PIXELS]
COLUMNS: dict[str, Any] = {
    "image": pa.array([{"bytes": file, "path": f"{i}.png"} for i, file in enumerate(FILES)]),
    "raw": pa.array(FILES, pa.binary()),
    "large": pa.array(FILES, pa.large_binary()),
    "flat": pa.array([pixels.transpose(2, 0, 1).ravel() for pixels in PIXELS], pa.list_(pa.uint8())),
    "nested": pa.array([pixels.transpose(2, 0, 1).tolist() for pixels in PIXELS], pa.list_(pa.list_(pa.list_(pa.int64())))),
    "grey": pa.array([pixels[:, :, 0].ravel() / 255 for pixels in PIXELS], pa.list_(pa.float64())),
    "vector": pa.array([pixels[0, :, 0] for pixels in PIXELS], pa.list_(pa.float32(), 10)),
    "label": pa.array(LABELS),
    "name": pa.array([NAMES[label] for label in LABELS]),
    "key": pa.array([1000 + i for i in range(N)]),
}  # fmt: skip


def write_parquet(folder: Path, columns: dict[str, Any]) -> str:
    pq.write_table(pa.table(columns), folder / "a.parquet", row_group_size=5)
    return f"parquet:{folder / 'a.parquet'}"


def write_hf(folder: Path, columns: dict[str, Any]) -> str:
    from datasets import Dataset

    Dataset(pa.table(columns)).save_to_disk(str(folder / "saved"))
    return f"hf:{folder / 'saved'}"


has_datasets = importlib.util.find_spec("datasets") is not None


@pytest.fixture(
    params=[write_parquet, pytest.param(write_hf, marks=pytest.mark.skipif(not has_datasets, reason="extra hf"))]
)
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """Save the columns, some of them changed, and give the start of a spec."""
    return lambda **changed: request.param(
        tmp_path, COLUMNS | {key: pa.array(*value) for key, value in changed.items()}
    )


def as_array(raw: Any) -> np.ndarray:
    return np.asarray(raw)


@pytest.mark.parametrize("column", ["image", "raw", "large"])
def test_image_files_are_decoded(write: Callable[..., str], column: str) -> None:
    samples = load_data(f"{write()},image={column}")
    assert len(samples) == N
    for i in (22, 0, 7, 8):
        np.testing.assert_array_equal(as_array(samples.raw(i)), PIXELS[i])


@pytest.mark.parametrize(
    ("column", "shape", "expected"),
    [
        ("flat", "3,12,10", PIXELS.transpose(0, 3, 1, 2)),
        ("nested", "3,12,10", PIXELS.transpose(0, 3, 1, 2)),
        ("grey", "12,10", (PIXELS[:, None, :, :, 0] / 255).astype(np.float32)),
        ("vector", "10", PIXELS[:, 0, :, 0].astype(np.float32)),
    ],
)
def test_numbers_are_tensors_of_the_given_shape(
    write: Callable[..., str], column: str, shape: str, expected: np.ndarray
) -> None:
    samples = load_data(f"{write()},image={column},shape={shape}")
    for i in (22, 0, 7):
        array = as_array(samples.raw(i))
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected[i])


def test_class_numbers_and_class_names(write: Callable[..., str], tmp_path: Path) -> None:
    spec = write()
    by_number, by_name = load_data(spec), load_data(f"{spec},label=name")
    np.testing.assert_array_equal(by_number.labels, LABELS)
    np.testing.assert_array_equal(by_name.labels, LABELS)
    assert (by_number.class_names, by_name.class_names) == (("0", "1", "2"), NAMES)
    (tmp_path / "classes.txt").write_text("eel\nfox\ndog\ncat\n")
    ordered = load_data(f"{spec},label=name,classes={tmp_path / 'classes.txt'}")
    assert ordered.class_names == ("eel", "fox", "dog", "cat")
    np.testing.assert_array_equal(ordered.labels, np.array([3, 2, 0])[LABELS])


def test_ids_come_from_a_column(write: Callable[..., str]) -> None:
    spec = write()
    assert load_data(f"{spec},id=key").sample_ids.to_pylist() == [str(1000 + i) for i in range(N)]
    assert load_data(spec).sample_ids[3].as_py().endswith("3")


def test_a_long_tail_keeps_ids_labels_and_images_together(write: Callable[..., str]) -> None:
    samples = load_data(f"{write()},id=key,imbalance=4,seed=1")
    assert samples.class_counts.tolist() == [8, 4, 2]
    for position in range(len(samples)):
        row = int(samples.sample_ids[position].as_py()) - 1000
        assert samples.labels[position] == LABELS[row]
        np.testing.assert_array_equal(as_array(samples.raw(position)), PIXELS[row])


def test_reading_processes_and_pickled_copies_read_the_same(write: Callable[..., str], tmp_path: Path) -> None:
    spec = write()
    samples = load_data(spec)
    samples.raw(0)  # what is cached before a fork must not mislead the children
    copy: Samples = pickle.loads(pickle.dumps(samples))
    np.testing.assert_array_equal(as_array(copy.raw(17)), PIXELS[17])
    (tmp_path / "linear.py").write_text(
        "import torch\n"
        "class T(torch.nn.Module):\n"
        "    def forward(self, x): return x.flatten(1)[:, :3]\n"
        "def teacher(): return T()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        config = ExtractConfig(
            data=spec, teacher="python:linear:teacher", out=tmp_path / "d.kd", workers=2, batch_size=4
        )
        extract(config)
    logits = open_store(tmp_path / "d.kd").read(np.arange(N), arrays=("logits",))["logits"]
    np.testing.assert_allclose(logits, PIXELS[:, 0, :3, 0] / 255, atol=1e-3)


@pytest.mark.parametrize("bad", [b"no image", b"", None, FILES[4][:60]])
def test_a_corrupt_image_is_named_by_its_id(write: Callable[..., str], bad: bytes | None) -> None:
    spec = write(raw=([*FILES[:4], bad, *FILES[5:]], pa.binary()))
    samples = load_data(f"{spec},image=raw,id=key")
    with pytest.raises(BadSampleError, match="The sample 1004 "):
        samples.raw(4)
    np.testing.assert_array_equal(as_array(samples.raw(5)), PIXELS[5])


@pytest.mark.parametrize(
    ("numbers", "problem"),
    [([1, 2, 3], "has 3 numbers"), (None, "has no numbers"), ([1] * 119 + [None], "has 119 numbers"),
     ([1] * 119 + [256], "from 1 to 256, not pixels")],
)  # fmt: skip
def test_numbers_that_do_not_fit_are_named_by_their_id(write: Callable[..., str], numbers: Any, problem: str) -> None:
    rows = [[7] * 120] * (N - 1)
    spec = write(flat=([*rows, numbers], pa.list_(pa.int64())))
    samples = load_data(f"{spec},image=flat,shape=12,10,id=key")
    samples.raw(0)
    with pytest.raises(BadSampleError, match=f"The sample 1022 .*{problem}"):
        samples.raw(N - 1)


@pytest.mark.parametrize(
    ("options", "changed", "problem"),
    [
        ("image=imagge", {}, "Unknown column of .*'imagge'. Did you mean 'image'"),
        ("lable=label", {}, "Did you mean 'label'"),
        ("label=imag", {}, "Did you mean 'image'"),
        ("image=name", {}, "neither image files .bytes. nor lists of numbers"),
        ("image=key", {}, "neither image files"),
        ("image=flat", {}, "Say how they lie, channels first: shape=3,32,32"),
        ("image=flat,shape=3,0,10", {}, "Say how they lie"),
        ("image=flat,shape=a,b", {}, "cannot be read"),
        ("shape=3,12,10", {}, "Leave shape= out"),
        ("label=grey", {}, "neither class numbers nor class names"),
        ("label=image", {}, "neither class numbers nor class names"),
        ("", {"label": ([None, *LABELS[1:].tolist()],)}, "no label in 1 of 23 rows"),
        ("", {"label": ((LABELS - 1).tolist(),)}, "labels from -1 to 1"),
        ("", {"label": ((LABELS / 2).tolist(),)}, "neither class numbers"),
        ("id=image", {}, "sample ids are texts or numbers"),
        ("id=key", {"key": ([None, *range(22)],)}, "with 1 empty cells"),
        ("id=label", {}, "the sample id '0' more than once"),
        ("label=name,classes={folder}/few.txt", {}, "Unknown class in .*'eel'"),
        ("classes={folder}/none.txt", {}, "cannot be read"),
        ("classes={folder}/few.txt", {}, "labels from 0 to 2 for 2 classes"),
    ],
)
def test_what_does_not_fit_is_refused(
    write: Callable[..., str], tmp_path: Path, options: str, changed: dict[str, Any], problem: str
) -> None:
    (tmp_path / "few.txt").write_text("cat\ndog\n")
    with pytest.raises(UsageError, match=problem):
        load_data(",".join([write(**changed), *([options.format(folder=tmp_path)] if options else [])]))
