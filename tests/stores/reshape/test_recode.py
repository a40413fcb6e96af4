"""A store in another codec: every pair that can be made verifies deeply, and is off by no more than the codecs say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kdpipe.stores import MissingArrayError, RefusedError, UsageError, open_store
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.codecs import LogitCodec, TopK, parse_codec
from kdpipe.stores.reshape.recode import recode

WriteStore = Callable[..., Any]
SOURCES = ["float16", "float32", "int8", "factorised:3", "float16+zstd"]
TARGETS = ["float16", "float32", "int8", "topk:3", "topk:2,temperatures=1", "float16+zstd", "int8+zstd"]


def write(write_store: WriteStore, path: Path, codec: str, **settings: Any) -> None:
    plain = codec in ("float16", "float32")
    settings |= {"dtype": codec if plain else "float16", "codec": None if plain else codec}
    # a step of float16 is 1/2 there, so that many logits become equal, and their ranks say more than they do
    write_store(path, 13, 6, 4, num_views=2, offset=0 if "factorised" in codec else 1000, **settings)


CASES = [
    *((source, target, {}) for source in SOURCES for target in TARGETS),
    *(
        (source, target, settings)
        for source in ("float16", "factorised:3")
        for target in ("int8", "topk:3")
        for settings in ({"arrays": ("logits",)}, {"rank_depth": 2})
    ),
]


@pytest.mark.parametrize(("source", "target", "settings"), CASES)
def test_from_any_codec_to_any_other(
    write_store: WriteStore, tmp_path: Path, source: str, target: str, settings: dict[str, Any]
) -> None:
    write(write_store, tmp_path / "a.kd", source, **settings)
    if source == target:
        with pytest.raises(UsageError, match="already"):
            recode(tmp_path / "a.kd", tmp_path / "b.kd", target)
        return
    made = recode(tmp_path / "a.kd", tmp_path / "b.kd", target, chunk_rows=5)
    assert verify(tmp_path / "b.kd", deep=True).findings == ()
    old, new = open_store(tmp_path / "a.kd"), open_store(tmp_path / "b.kd", verify=True)
    assert made.logit_codec == parse_codec(target)
    kept = ["row", "sample_id", "label", "group", "teacher_confidence", "teacher_entropy"]
    assert new.samples(kept).equals(old.samples(kept))
    rows = np.arange(13)
    for view in range(2):
        logits = old.read(rows, view=view)["logits"].astype(np.float32)
        if isinstance(made.logit_codec, LogitCodec):
            found = new.read(rows, view=view)["logits"].astype(np.float64)
            assert (np.abs(found - logits) <= made.logit_codec.error_bound(logits, {}) + 1e-30).all()
        else:
            assert isinstance(made.logit_codec, TopK)
            top = new.read(rows, arrays=("top_classes", "top_logits", "logsumexp"), view=view)
            assert np.array_equal(top["top_logits"], -np.sort(-logits, axis=1)[:, : made.logit_codec.k])
            highest = logits.max(1).astype(np.float64)
            exact = highest + np.log(np.exp(logits - highest[:, None]).sum(1))
            np.testing.assert_allclose(top["logsumexp"][:, 0], exact, rtol=1e-6, atol=1e-6)
        if "arrays" not in settings and source != "factorised:3":
            ranks = old.read(rows, arrays=("ranks",), view=view)["ranks"]
            assert np.array_equal(new.read(rows, arrays=("ranks",), view=view)["ranks"], ranks)


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [("topk:3", "topk:3+zstd", ""), ("factorised:3", "factorised+zstd", ""), ("factorised:3+zstd", "factorised:3", "")],
)
def test_compressing_changes_no_number(
    write_store: WriteStore, tmp_path: Path, source: str, target: str, says: str
) -> None:
    write(write_store, tmp_path / "a.kd", source)
    recode(tmp_path / "a.kd", tmp_path / "b.kd", target, chunk_rows=4)
    recode(tmp_path / "b.kd", tmp_path / "c.kd", source, chunk_rows=4)
    for file in (tmp_path / "a.kd" / "payload.zarr").rglob("c/**/0"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "c.kd" / file.relative_to(tmp_path / "a.kd")).read_bytes()


def test_ranks_alone_are_compressed(write_store: WriteStore, tmp_path: Path) -> None:
    write(write_store, tmp_path / "a.kd", "float16", arrays=("ranks",))
    assert recode(tmp_path / "a.kd", tmp_path / "b.kd", "int8+zstd").codec == "float16+zstd"
    assert verify(tmp_path / "b.kd", deep=True).findings == ()
    with pytest.raises(UsageError, match="already"):
        recode(tmp_path / "a.kd", tmp_path / "c.kd", "int8")


@pytest.mark.parametrize(
    ("source", "target", "error", "says"),
    [
        ("topk:3", "float16", MissingArrayError, "all logits"),
        ("topk:3", "topk:2", MissingArrayError, "all logits"),
        ("float16", "factorised", RefusedError, "features"),
        ("float16", "topk:9", UsageError, "more classes"),
        ("float16", "flaot32", UsageError, "Did you mean 'float32'"),
    ],
)
def test_what_cannot_be_made(
    write_store: WriteStore, tmp_path: Path, source: str, target: str, error: type[Exception], says: str
) -> None:
    write(write_store, tmp_path / "a.kd", source)
    with pytest.raises(error, match=says):
        recode(tmp_path / "a.kd", tmp_path / "b.kd", target)
    assert not (tmp_path / "b.kd").exists()
