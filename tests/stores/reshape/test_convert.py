"""Between formats and codecs: bit-exact where both are exact, measured otherwise; a kill changes nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kdpipe.stores import CorruptStoreError, Manifest, MissingArrayError, RefusedError, UsageError, open_store
from kdpipe.stores.checks.repair import repair
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.manifest import PAYLOAD_FORMATS
from kdpipe.stores.payload.layout import payload_layout
from kdpipe.stores.reshape.convert import convert

WriteStore = Callable[..., Any]
CODECS = ["float16", "float32", "float16+zstd", "int8", "topk:3", "factorised:3", "factorised:3+zstd"]


def write(write_store: WriteStore, path: Path, codec: str = "float16", shape=(11, 6, 4), **fields: Any) -> None:
    plain = codec in ("float16", "float32")
    fields = {"num_views": 2, "dtype": codec if plain else "float16", "codec": None if plain else codec, **fields}
    write_store(path, *shape, **fields)


def files_of(store: Path) -> dict[str, bytes]:
    """Payload, tables and receipts; the manifest holds times."""
    paths = [path for path in store.rglob("*") if path.is_file() and path.name not in ("manifest.json",)]
    return {str(path.relative_to(store)): path.read_bytes() for path in paths}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    codec=st.sampled_from(CODECS),
    formats=st.permutations(PAYLOAD_FORMATS).map(lambda names: names[:2]),
    num_samples=st.integers(1, 20),
    chunk_rows=st.integers(1, 8),
    num_views=st.integers(1, 2),
    arrays=st.sampled_from([("logits", "ranks"), ("logits",)]),
)
def test_there_and_back_every_format_gives_the_same_store(
    write_store: WriteStore, tmp_path_factory, codec, formats, num_samples, chunk_rows, num_views, arrays
) -> None:
    there, back = formats
    folder = tmp_path_factory.mktemp("convert")
    shape = (num_samples, 7, min(chunk_rows, num_samples))
    write(write_store, folder / "a.kd", codec, shape, num_views=num_views, arrays=arrays, payload_format=back)
    first = convert(folder / "a.kd", folder / "b.kd", payload_format=there)
    assert (first.exact, first.fidelity, first.largest_error, first.remarks) == (True, None, None, ())
    assert first.identical == tuple(array.name for array in first.manifest.arrays)
    assert verify(folder / "b.kd", deep=True).findings == ()
    second = convert(folder / "b.kd", folder / "c.kd", payload_format=back)
    assert second.exact
    source, result = open_store(folder / "a.kd"), open_store(folder / "c.kd")
    for view in range(num_views):
        for block in range(source.manifest.grid.chunks_per_view):
            for array in source.manifest.arrays:
                name = source.layout.array_file(array.name, view, block)
                assert (source.path / name).read_bytes() == (result.path / name).read_bytes()
    assert result.samples().equals(source.samples())
    assert [p.change for p in result.manifest.parents] == [f"format {back} in the place of {there}"]
    (parent,) = result.manifest.parents
    assert [p.store_id for p in parent.parents] == [source.manifest.store_id]
    chunk = source.manifest.grid.num_chunks - 1
    assert source.receipt(chunk).inputs == result.receipt(chunk).inputs


@pytest.mark.parametrize(
    ("source", "target"),
    [("float16", "float32"), ("float16", "float16+zstd"), ("factorised:3", "float32"), ("int8", "int8+zstd"),
     ("topk:3", "topk:3+zstd")],
)  # fmt: skip
def test_what_is_exact_is_proved(write_store: WriteStore, tmp_path: Path, source: str, target: str) -> None:
    write(write_store, tmp_path / "a.kd", source)
    made = convert(tmp_path / "a.kd", tmp_path / "b.kd", payload_format="parquet", codec=target)
    assert made.largest_error in (None, 0)
    assert made.fidelity is None
    assert (
        made.exact or "ranks" not in made.identical
    )  # a rebuilt order may differ from the features' to the last place
    assert made.manifest.payload_format == "parquet"
    if not source.startswith("topk"):
        old, new = (open_store(tmp_path / name).read(np.arange(11), view=1)["logits"] for name in ("a.kd", "b.kd"))
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("target", ["float16", "int8", "topk:2,temperatures=1,4", "int8+zstd"])
def test_what_is_not_exact_is_measured(write_store: WriteStore, tmp_path: Path, target: str) -> None:
    write(write_store, tmp_path / "a.kd", "float32")
    made = convert(tmp_path / "a.kd", tmp_path / "b.kd", codec=target, payload_format="parquet-lists")
    assert not made.exact
    assert made.identical == ("ranks",)
    assert made.fidelity is not None
    assert made.fidelity.rows == 22
    old = open_store(tmp_path / "a.kd").read(np.arange(11), view=1)["logits"].astype(np.float64)
    if target.startswith("topk"):
        assert any("cannot be brought back" in remark for remark in made.remarks)
        return
    both = [(open_store(tmp_path / "a.kd"), open_store(tmp_path / "b.kd"), view) for view in range(2)]
    pairs = [tuple(s.read(np.arange(11), view=v)["logits"].astype(np.float64) for s in (a, b)) for a, b, v in both]
    assert made.largest_error == max(np.abs(one - other).max() for one, other in pairs)
    old, new = (np.concatenate(side) for side in zip(*pairs, strict=True))
    p, q = (np.exp(x / 4) / np.exp(x / 4).sum(1, keepdims=True) for x in (old, new))
    np.testing.assert_allclose(made.fidelity.kl[4.0], (p * np.log(p / q)).sum(1).mean(), rtol=1e-6)


def test_a_store_of_codes_stays_approximate_and_says_so(write_store: WriteStore, tmp_path: Path) -> None:
    write(write_store, tmp_path / "a.kd", "int8")
    made = convert(tmp_path / "a.kd", tmp_path / "b.kd", codec="float16")
    assert any("stay as approximate" in remark for remark in made.remarks)
    again = convert(tmp_path / "a.kd", tmp_path / "b.kd", codec="float16")
    assert again == made, "a finished one is compared again, and not changed"


def test_ranks_alone_change_their_files_only(write_store: WriteStore, tmp_path: Path) -> None:
    write(write_store, tmp_path / "a.kd", arrays=("ranks",))
    made = convert(tmp_path / "a.kd", tmp_path / "b.kd", payload_format="parquet-lists", codec="float16+zstd")
    assert (made.exact, made.identical) == (True, ("ranks",))
    with pytest.raises(UsageError, match="already"):
        convert(tmp_path / "b.kd", tmp_path / "c.kd", codec="topk:2+zstd")  # of ranks, only +zstd counts


@pytest.mark.parametrize(
    ("codec", "asked", "error", "says"),
    [
        ("topk:3", {"codec": "float16"}, MissingArrayError, "does not know those of the classes it left out"),
        ("topk:3", {"codec": "topk:2", "payload_format": "parquet"}, MissingArrayError, "left out"),
        ("float16", {"codec": "factorised:3"}, RefusedError, "features, which this store does not have"),
        ("float16", {}, UsageError, "format zarr already"),
        ("float16", {"payload_format": "zarr"}, UsageError, "format zarr already"),
        ("float16", {"codec": "float16"}, UsageError, "codec float16 already"),
        ("float16", {"codec": "topk:9"}, UsageError, "9"),
    ],
)
def test_what_cannot_be_done_is_refused(write_store: WriteStore, tmp_path: Path, codec, asked, error, says) -> None:
    write(write_store, tmp_path / "a.kd", codec)
    with pytest.raises(error, match=says):
        convert(tmp_path / "a.kd", tmp_path / "b.kd", **asked)
    assert not (tmp_path / "b.kd").exists()


def test_a_damaged_source_is_refused(write_store: WriteStore, tmp_path: Path) -> None:
    write(write_store, tmp_path / "a.kd", payload_format="parquet")
    path = tmp_path / "a.kd/payload/00004.parquet"
    data = bytearray(path.read_bytes())
    data[-300] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptStoreError, match=r"00004\.parquet is not what its receipt says"):
        convert(tmp_path / "a.kd", tmp_path / "b.kd", payload_format="zarr")
    assert Manifest.read(tmp_path / "b.kd").state == "writing"


KILLED = """
import os, signal, sys
from kdpipe.stores import files
from kdpipe.stores.reshape.convert import convert

steps = 0

def kill(step, path):
    global steps
    steps += 1
    if steps == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

files.on_step = kill
convert(sys.argv[1], sys.argv[2], payload_format="parquet", codec="int8", chunk_rows=4)
"""


@pytest.mark.parametrize("step", [3, 22, 45, 70])
def test_a_kill_and_the_same_command_again_give_the_same_bytes(
    write_store: WriteStore, tmp_path: Path, step: int
) -> None:
    write(write_store, tmp_path / "a.kd")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "a.kd"), str(tmp_path / "b.kd"), str(step)]
    killed = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    asked: dict[str, Any] = {"payload_format": "parquet", "codec": "int8", "chunk_rows": 4}
    resumed = convert(tmp_path / "a.kd", tmp_path / "b.kd", **asked)
    never = convert(tmp_path / "a.kd", tmp_path / "c.kd", **asked)
    assert files_of(tmp_path / "b.kd") == files_of(tmp_path / "c.kd")
    assert resumed.manifest.receipts == never.manifest.receipts


def test_a_damaged_conversion_is_repaired_and_gone_on_with(write_store: WriteStore, tmp_path: Path) -> None:
    write(write_store, tmp_path / "a.kd")
    convert(tmp_path / "a.kd", tmp_path / "b.kd", payload_format="parquet")
    before = files_of(tmp_path / "b.kd")
    layout = payload_layout(Manifest.read(tmp_path / "b.kd"))
    (tmp_path / "b.kd" / layout.array_file("logits", 1, 2)).write_bytes(b"spoiled")
    assert repair(tmp_path / "b.kd").chunks == (5,)
    convert(tmp_path / "a.kd", tmp_path / "b.kd", payload_format="parquet")
    after = files_of(tmp_path / "b.kd")
    assert {name: after[name] for name in before} == before
