"""Libraries that know nothing of kdpipe read a store, from a folder and from a real S3 server: docs/interoperability.md
is run, in processes that cannot import kdpipe."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kdpipe.stores import Store, open_store
from kdpipe.stores.layout import array_file
from kdpipe.stores.remote.push import push
from seaweed import BUCKET

PAGE = Path(__file__).parents[2] / "docs" / "interoperability.md"
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.read_text().split("\n## ")}
NEEDS = {
    "xarray": "xarray",
    "tensorstore": "tensorstore",
    "polars": "polars",
    "DuckDB": "duckdb",
    "Icechunk": "icechunk",
}
SHAPE = (18, 6, 4)  # rows, classes, rows of a chunk: the last chunk of each view is partial
# runs blocks one after the other, as a reader would, and keeps what each of them read
RUNNER = """
import pickle, sys
sys.modules["kdpipe"] = None
seen, read = [], {}
for block in pickle.load(sys.stdin.buffer):
    exec(compile(block, "docs/interoperability.md", "exec"), read)
    seen.append({name: read.pop(name) for name in sys.argv[2:] if name in read})
pickle.dump(seen, open(sys.argv[1], "wb"))
"""


@pytest.fixture(scope="module")
def shelf(write_store: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plain stores that the page names, of two views each."""
    root = tmp_path_factory.mktemp("shelf")
    write_store(root / "digits.kd", *SHAPE, num_views=2)
    write_store(root / "digits-lists.kd", *SHAPE, num_views=2, payload_format="parquet-lists")
    return root


@pytest.fixture
def pushed(shelf: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address below which the page's stores are; the environment says how to reach it."""
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for path in shelf.iterdir():
        push(path, f"{bucket}/stores/{path.name}")
    return bucket


@pytest.mark.parametrize("library", ["zarr-python", "xarray", "tensorstore"])
def test_arrays_are_read(library: str, shelf: Path, pushed: str, tmp_path: Path) -> None:
    here, there = read_as_shown(library, shelf, tmp_path, ["logits", "ranks"], pushed)
    for read in (here, there):
        _same(read, open_store(shelf / "digits.kd"))


def test_pyarrow_and_polars_read_the_tables(shelf: Path, pushed: str, tmp_path: Path) -> None:
    store = open_store(shelf / "digits.kd")
    here, there = read_as_shown("pyarrow", shelf, tmp_path, ["samples", "classes", "logits", "ranks"], pushed)
    for read in (here, there):
        assert read["samples"].equals(store.samples())
        assert read["classes"].equals(store.classes)
    _same(there, store)
    here, there = read_as_shown("polars", shelf, tmp_path, ["samples", "classes", "logits", "ranks"], pushed)
    for read in (here, there):
        assert read["samples"].to_dicts() == store.samples().to_pylist()
        assert read["classes"].to_dicts() == store.classes.to_pylist()
    _same(there, store)


def test_duckdb_reads_the_tables(shelf: Path, pushed: str, tmp_path: Path) -> None:
    samples = open_store(shelf / "digits.kd").samples()
    labels, correct = samples["label"].to_numpy(), samples["teacher_correct"].to_numpy()
    expected = {label: correct[labels == label].mean() for label in range(SHAPE[1])}
    here, there = read_as_shown("DuckDB", shelf, tmp_path, ["accuracy", "from_ranks"], pushed)
    for accuracy in (here["accuracy"], there["accuracy"], there["from_ranks"]):
        assert accuracy == pytest.approx(expected)


@pytest.mark.parametrize("suffix", ["", "+zstd"])
def test_codecs_are_undone(suffix: str, write_store: Callable[..., Any], tmp_path: Path) -> None:
    codecs = {"int8": "int8", "topk": "topk:3,temperatures=1,4", "factorised": "factorised:4"}
    written = {
        name: write_store(tmp_path / f"digits-{name}.kd", *SHAPE, num_views=2, codec=codec + suffix)
        for name, codec in codecs.items()
    }
    names = ["logits", "top_classes", "top_probabilities", "others"]
    int8, topk, factorised = read_as_shown("Codecs", tmp_path, tmp_path, names)
    for read, name in ((int8, "int8"), (factorised, "factorised")):
        expected = open_store(tmp_path / f"digits-{name}.kd").read(range(SHAPE[0]))["logits"]
        np.testing.assert_allclose(read["logits"], expected, rtol=1e-5, atol=1e-5)
    masses = np.exp(written["topk"].logits[0].astype(np.float64) / 4)
    exact = masses / masses.sum(1, keepdims=True)
    kept = np.take_along_axis(exact, topk["top_classes"].astype(int), 1)
    np.testing.assert_allclose(topk["top_probabilities"], kept, rtol=1e-5)
    np.testing.assert_allclose(topk["others"], 1 - kept.sum(1), atol=1e-5)


def test_tensorstore_and_xarray_decompress(write_store: Callable[..., Any], tmp_path: Path) -> None:
    write_store(tmp_path / "digits.kd", *SHAPE, num_views=2, codec="float16+zstd")
    for library in ("tensorstore", "xarray"):
        (read,) = read_as_shown(library, tmp_path, tmp_path, ["logits", "ranks"])
        _same(read, open_store(tmp_path / "digits.kd"))


@pytest.mark.parametrize("damaged", ["", array_file("ranks", 1, 2), "classes.parquet", "receipts/00003.json"])
def test_receipts_prove_the_bytes(damaged: str, write_store: Callable[..., Any], tmp_path: Path) -> None:
    write_store(tmp_path / "digits.kd", *SHAPE, num_views=2)
    if not damaged:
        read_as_shown("What the receipts prove", tmp_path, tmp_path, [])
        return
    path = tmp_path / "digits.kd" / damaged
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChildFailedError, match="other receipts" if "receipts" in damaged else damaged):
        read_as_shown("What the receipts prove", tmp_path, tmp_path, [])


def test_a_payload_is_copied_into_an_icechunk_repository(write_store: Callable[..., Any], tmp_path: Path) -> None:
    write_store(tmp_path / "digits.kd", *SHAPE, num_views=2)
    (read,) = read_as_shown("Icechunk", tmp_path, tmp_path, ["logits", "ranks"])
    _same(read, open_store(tmp_path / "digits.kd"))


class ChildFailedError(Exception):
    """A block of the page has failed; the text is what it said."""


def read_as_shown(
    section: str, folder: Path, tmp_path: Path, names: list[str], bucket: str | None = None
) -> list[dict[str, Any]]:
    """Run the blocks of a section where the stores are (without a bucket, those that read no address).

    Gives the named variables after each block.
    """
    if section in NEEDS:
        pytest.importorskip(NEEDS[section])
    blocks = re.findall(r"^```python\n(.*?)^```", SECTIONS[section], re.MULTILINE | re.DOTALL)
    if bucket is None:
        blocks = [block for block in blocks if "team-a" not in block]
    else:
        key = bucket.removeprefix(f"s3://{BUCKET}/")
        blocks = [
            block.replace("s3://team-a", bucket)
            .replace('"bucket": "team-a"', f'"bucket": "{BUCKET}"')
            .replace('"path": "stores/', f'"path": "{key}/stores/')
            for block in blocks
        ]
    answer = tmp_path / "read.pickle"
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, str(answer), *names], check=False, cwd=folder, input=pickle.dumps(blocks),
        capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise ChildFailedError(done.stderr.decode())
    return pickle.loads(answer.read_bytes())


def _same(read: dict[str, Any], store: Store) -> None:
    """Bit for bit what kdpipe reads of view 0."""
    for name, values in store.read(range(len(store)), arrays=("logits", "ranks")).items():
        assert read[name].dtype == values.dtype
        np.testing.assert_array_equal(read[name], values)
