"""Stores of every codec: written, verified, read as a store and as plain Zarr, damaged, repaired."""

import dataclasses
import json

import numpy as np
import pytest
import xarray
import zarr
from kdpipe.stores import CorruptStoreError, Manifest, MissingArrayError, Store, UsageError, open_store
from kdpipe.stores.checks.repair import repair
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.codecs import LogitCodec
from kdpipe.stores.layout import PAYLOAD, array_file
from kdpipe.stores.manifest import replace
from kdpipe.stores.payload.zarr_files import constant_file
from kdpipe.stores.remote.selection import Selection

from .checks.test_verify import real_content
from .conftest import make_content

CODECS = [
    "float16+zstd",
    "float32+zstd",
    "int8",
    "int8+zstd",
    "topk:3",
    "topk:2,temperatures=2.5+zstd",
    "topk:7",
    "factorised:3",
    "factorised:3+zstd",
]
SHAPE = (11, 7, 4)  # 3 chunks, the last of them partial


@pytest.fixture(scope="module", params=CODECS)
def written(request, tmp_path_factory):
    """A store of two views, and what went into it."""
    content = real_content(*SHAPE, codec=request.param, num_views=2)
    root = tmp_path_factory.mktemp("coded") / "a.kd"
    content.write(root).finish()
    return root, content


def logits_within_bound(store: Store, content) -> bool:
    codec = store.manifest.logit_codec
    assert isinstance(codec, LogitCodec)
    rows = np.array([10, 0, 3, 3, 7])
    for view in range(2):
        values = (content.logits if content.features is None else content.features)[view, rows]
        read = store.read(rows, view=view)["logits"]
        assert read.dtype == store.require("logits").dtype
        error = np.abs(read.astype(np.float64) - content.logits[view, rows])
        if not (error <= codec.error_bound(values, content.constants)).all():
            return False
    return True


def test_a_store_of_every_codec_is_whole(written):
    root, _ = written
    for deep in (False, True):
        report = verify(root, deep=deep)
        assert (report.findings, report.notes) == ((), ())


def test_logits_are_read_within_the_codec_s_bound(written):
    root, content = written
    for store in (open_store(root), open_store(root, verify=True)):
        if content.manifest.components("logits"):
            assert logits_within_bound(store, content)
        for array in content.manifest.arrays:
            read = store.read(np.arange(11), arrays=(array.name,), view=1)[array.name]
            np.testing.assert_array_equal(read, content.stored(array.name, 1))


def test_batches_stream_what_is_read(written):
    root, content = written
    store = open_store(root)
    name = "logits" if content.manifest.components("logits") else "top_logits"
    for order in ("random", "chunks"):
        rows, values = [], []
        for batch in store.batches(3, arrays=(name,), order=order, view=1):
            rows.append(batch["row"].copy())
            values.append(batch[name].copy())
        assert sorted(np.concatenate(rows)) == list(range(11))
        expected = store.read(np.concatenate(rows), arrays=(name,), view=1)[name]
        # a product of another number of rows may be summed in another order
        np.testing.assert_allclose(np.concatenate(values), expected, rtol=1e-5, atol=1e-5)


def test_plain_zarr_and_xarray_read_every_array(written):
    root, content = written
    group = zarr.open_group(root / PAYLOAD, mode="r")
    dataset = xarray.open_zarr(root / PAYLOAD, consolidated=False)
    for array in content.manifest.arrays:
        expected = np.stack([content.stored(array.name, view) for view in range(2)])
        np.testing.assert_array_equal(np.asarray(group[array.name]), expected)
        np.testing.assert_array_equal(dataset[array.name].values, expected)
    for constant in content.manifest.constants:
        np.testing.assert_array_equal(np.asarray(group[constant.name]), content.constants[constant.name])


def test_compressed_chunks_say_so_in_their_metadata(written):
    root, content = written
    for array in content.manifest.arrays:
        codecs = json.loads((root / PAYLOAD / array.name / "zarr.json").read_bytes())["codecs"]
        assert [codec["name"] for codec in codecs] == (
            ["bytes", "blosc"] if "+zstd" in content.manifest.codec else ["bytes"]
        )
        if "+zstd" in content.manifest.codec:
            found = codecs[1]["configuration"]
            assert (found["cname"], found["shuffle"], found["typesize"]) == ("zstd", "bitshuffle", array.item_bytes)


def test_the_manifest_survives_its_file_and_names_its_codec(written):
    root, content = written
    manifest = Manifest.read(root)
    assert manifest.settings() == content.manifest.settings()
    assert str(manifest.logit_codec) == manifest.codec
    assert manifest.store_id == content.manifest.store_id


def test_a_part_takes_the_logits_in_whatever_form_they_are(written):
    _, content = written
    manifest = content.manifest
    assert Selection().of(manifest).is_whole
    assert Selection(arrays=("logits",)).of(manifest).arrays == manifest.logit_arrays
    assert Selection(arrays=("ranks",)).of(manifest).arrays == manifest.components("ranks")


def test_damage_is_found_and_repaired_by_the_same_writer(written, tmp_path):
    root, content = written
    damaged = tmp_path / "a.kd"
    content.write(damaged).finish()
    for array in content.manifest.arrays:
        path = damaged / array_file(array.name, 1, 1)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        report = verify(damaged, deep=True)
        assert {(f.path, f.chunk, f.check) for f in report.findings} == {(array_file(array.name, 1, 1), 4, "checksum")}
        assert repair(damaged).chunks == (4,)
        content.write(damaged).finish()
        assert (damaged / array_file(array.name, 1, 1)).read_bytes() == (
            root / array_file(array.name, 1, 1)
        ).read_bytes()
    assert verify(damaged, deep=True).whole


def test_truncated_and_missing_chunks_are_named(written, tmp_path):
    _, content = written
    path = tmp_path / "a.kd"
    content.write(path).finish()
    name = content.manifest.arrays[0].name
    file = path / array_file(name, 0, 1)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CorruptStoreError, match="Restore this chunk"):
        open_store(path).read([4], arrays=(name,))
    file.unlink()
    with pytest.raises(CorruptStoreError, match="cannot be read"):
        open_store(path).read([4], arrays=(name,))
    assert not verify(path).whole


def test_a_compressed_chunk_of_another_size_is_refused(tmp_path):
    content = make_content(*SHAPE, codec="float16+zstd")
    content.write(tmp_path / "a.kd").finish()
    other = make_content(3, 7, 3, codec="float16+zstd")
    other.write(tmp_path / "b.kd").finish()
    file = array_file("logits", 0, 0)
    (tmp_path / "a.kd" / file).write_bytes((tmp_path / "b.kd" / file).read_bytes())
    with pytest.raises(CorruptStoreError, match="not a compressed chunk of 56 bytes"):
        open_store(tmp_path / "a.kd").read([0])


def test_a_compressed_chunk_that_is_larger_than_its_content_is_refused_unread(tmp_path):
    make_content(*SHAPE, codec="float16+zstd").write(tmp_path / "a.kd").finish()
    (tmp_path / "a.kd" / array_file("logits", 0, 0)).write_bytes(bytes(73))
    with pytest.raises(CorruptStoreError, match="has 73 bytes, more than uncompressed"):
        open_store(tmp_path / "a.kd").read([0])


def test_compressed_stores_are_byte_identical(tmp_path):
    content = make_content(300, 40, 128, codec="float16+zstd")
    for name in ("a.kd", "b.kd"):
        content.write(tmp_path / name).finish()
    for file in sorted((tmp_path / "a.kd" / PAYLOAD).rglob("*")):
        if file.is_file():
            other = tmp_path / "b.kd" / file.relative_to(tmp_path / "a.kd")
            assert file.read_bytes() == other.read_bytes(), file


def test_few_decompressed_chunks_are_kept(tmp_path, monkeypatch):
    content = make_content(40, 7, 4, codec="float16+zstd")
    content.write(tmp_path / "a.kd").finish()
    monkeypatch.setattr("kdpipe.stores.payload.kept_rows._KEPT_BYTES", 3 * 4 * 14)
    store = open_store(tmp_path / "a.kd")
    rows = np.random.default_rng(0).permutation(40)
    np.testing.assert_array_equal(store.read(rows)["logits"], content.stored("logits")[rows])
    (kept,) = store._mapped.values()
    assert len(kept._kept) == 3  # pyright: ignore


def test_logits_of_a_top_k_store_are_never_made_up(tmp_path):
    make_content(*SHAPE, codec="topk:3").write(tmp_path / "a.kd").finish()
    store = open_store(tmp_path / "a.kd")
    with pytest.raises(
        MissingArrayError, match=r"has no 'logits', only top_classes, .*keeps the best classes only.*--codec float16"
    ):
        store.read([0])
    with pytest.raises(MissingArrayError, match="written by another codec than topk:3,temperatures=1,4"):
        store.read([0], arrays=("features",))


# --- factorised: what is stored once


def test_a_lost_classifier_is_written_again(tmp_path):
    content = real_content(*SHAPE, codec="factorised:3")
    content.write(tmp_path / "a.kd").finish()
    for constant in content.manifest.constants:
        path = tmp_path / "a.kd" / constant_file(constant)
        data = path.read_bytes()
        path.write_bytes(data[:-4] + b"\0\0\xc0\x7f")
        findings = verify(tmp_path / "a.kd", deep=True).findings
        assert {(f.path, f.chunk, f.check) for f in findings} == {(constant_file(constant), None, "checksum")}
        with pytest.raises(CorruptStoreError, match="not what the manifest says"):
            open_store(tmp_path / "a.kd", verify=True).read([0])
        path.write_bytes(data[:-4])
        with pytest.raises(CorruptStoreError, match="bytes instead of"):
            open_store(tmp_path / "a.kd").read([0])
        assert repair(tmp_path / "a.kd").chunks == ()
        content.write(tmp_path / "a.kd").finish()
        assert path.read_bytes() == data
        assert verify(tmp_path / "a.kd", deep=True).whole


def test_a_classifier_that_is_not_given_is_refused(tmp_path):
    content = dataclasses.replace(make_content(*SHAPE, codec="factorised:3"), constants={})
    with pytest.raises(UsageError, match=r"needs 'classifier_weight' of shape \(7, 3\), not None"):
        content.write(tmp_path / "a.kd")


def test_an_infinite_classifier_is_found(tmp_path):
    content = real_content(*SHAPE, codec="factorised:3")
    content.constants["classifier_bias"][2] = np.inf
    content.write(tmp_path / "a.kd").finish()
    (finding,) = verify(tmp_path / "a.kd", deep=True).findings
    assert finding.path == "payload.zarr/classifier_bias/c/0"
    assert "not finite" in finding.problem


# --- contradictions that checksums cannot see


def change(name: str, place: tuple[int, ...], value: float):
    def apply(encoded: list[dict[str, np.ndarray]]) -> None:
        encoded[0][name][place] = value

    return apply


@pytest.mark.parametrize(
    ("codec", "made", "path", "problem"),
    [
        ("int8", change("logit_codes", (5,), 9), "logit_codes", "no class has the row's largest logit"),
        ("int8", change("logit_scale", (5, 0), np.nan), "logit_scale", "the logits are not finite"),
        ("int8", change("logit_scale", (5, 1), -1), "logit_scale", "a step is below 0"),
        ("factorised:3", change("features", (5, 1), np.inf), "features", "the logits are not finite"),
        ("topk:3", change("top_classes", (5, 1), 7), "top_classes", "a kept class is no class"),
        ("topk:3", change("top_logits", (5, 1), np.nan), "top_logits", "the logits are not finite"),
        ("topk:3", change("top_logits", (5, 1), -99), "top_logits", "the kept logits do not fall"),
        ("topk:3", change("logsumexp", (5, 1), -9), "logsumexp", "a logsumexp is below that of the kept classes"),
        ("topk:3", change("logsumexp", (5, 1), np.inf), "logsumexp", "a logsumexp is below that of the kept classes"),
        ("topk:3", change("group_logsumexp", (5, 4), 9), "group_logsumexp", "the groups do not add up to all classes"),
        ("topk:3", change("group_logsumexp", (5, 4), np.nan), "group_logsumexp", "the groups do not add up"),
    ],
)
def test_values_that_cannot_be_right_are_found(tmp_path, codec, made, path, problem):
    content = real_content(*SHAPE, codec=codec)
    made(content._encoded)
    content.write(tmp_path / "a.kd").finish()
    found = verify(tmp_path / "a.kd", deep=True).findings
    assert any(
        f.path == array_file(path, 0, 1) and problem in f.problem and "(first: row 5)" in f.problem for f in found
    )
    assert {f.chunk for f in found} == {1}


def test_kept_classes_that_are_not_the_ranks_are_found(tmp_path):
    content = real_content(*SHAPE, codec="topk:3")
    classes = content._encoded[0]["top_classes"]
    classes[5, [0, 1]] = classes[5, [1, 0]]
    content.write(tmp_path / "a.kd").finish()
    (finding,) = verify(tmp_path / "a.kd", deep=True).findings
    assert finding.problem == "the kept classes are not the first ranks in 1 row (first: row 5)"


# --- manifests


@pytest.mark.parametrize(
    ("options", "store_id"),
    [
        ({}, "bddfaa5be21ddc00"),
        ({"dtype": "float32", "rank_depth": 3}, "cc9accb23e814a7b"),
        ({"arrays": ("ranks",)}, "53a48474e3bf10f7"),
    ],
)
def test_a_store_without_codec_keeps_the_id_it_had_before_there_were_codecs(options, store_id):
    manifest = make_content(**options).manifest
    assert "codec" not in manifest.settings()
    assert manifest.store_id == store_id


def test_every_codec_gives_another_id():
    ids = {make_content(*SHAPE, codec=codec).manifest.store_id for codec in [None, *CODECS]}
    assert len(ids) == len(CODECS) + 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"codec": "float16"}, "plain ones not at all"),
        ({"codec": "topk:3"}, "not written 'topk:3' but 'topk:3,temperatures=1,4'"),
        ({"codec": "int8"}, "the codec int8 for 7 classes has the arrays logit_codes uint8 7, logit_scale float32 2"),
        ({"codec": "topk:8,temperatures=1,4"}, "more classes than the 7"),
        ({"codec": "int9"}, "Unknown codec"),
    ],
)
def test_a_manifest_whose_codec_and_arrays_disagree_is_refused(changes, says):
    with pytest.raises(UsageError, match=says):
        replace(make_content(*SHAPE).manifest, **changes)


def test_ranks_alone_may_be_compressed(tmp_path):
    content = real_content(*SHAPE, arrays=("ranks",), codec="float16+zstd")
    content.write(tmp_path / "a.kd").finish()
    assert verify(tmp_path / "a.kd", deep=True).whole
    store = open_store(tmp_path / "a.kd")
    np.testing.assert_array_equal(store.read(range(11), arrays="ranks")["ranks"], content.stored("ranks"))


def test_ranks_of_a_thousand_classes_cost_ten_bits(tmp_path):
    make_content(256, 1000, 256, codec="float16+zstd").write(tmp_path / "a.kd").finish()
    size = (tmp_path / "a.kd" / array_file("ranks", 0, 0)).stat().st_size
    assert size <= 1.05 * 256 * 1000 * 10 / 8
