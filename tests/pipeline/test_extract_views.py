"""Extraction of augmented views: pure, resumable, and views are added without touching those that are there."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.augment import Augmentation, AugmentedView
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.recheck import recheck
from kdpipe.pipeline.views import Preprocessing, input_digest
from kdpipe.stores import MismatchError, RefusedError, UsageError, open_store
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.layout import receipt_file
from kdpipe.stores.manifest import Manifest
from kdpipe.stores.probe import LibraryProbe
from ranked import run_ranks

DATA = "digits,split=train,max_per_class=12"
TEACHER = "python:seen_teacher:teacher"
CODE = """
import torch
class T(torch.nn.Module):
    preprocessing = "image,mean=0.5,std=0.25"
    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Linear(64 * channels, 10)
    def forward(self, x): return 20 * self.body(x.flatten(1))
def teacher(in_channels): return T(in_channels)
"""
PLAIN, MIXED = "crop-flip,size=8,padding=2", "crop-flip,size=8,padding=2,mixup=0.4,cutmix=1"
SPECS = (PLAIN, MIXED, "rrc-flip,size=8", "trivial-augment,size=8,padding=1")


@pytest.fixture(autouse=True)
def teacher(module: Callable[[str, str], None]) -> None:
    module("seen_teacher", CODE)


def make(out: Path | str, **changes: Any) -> Manifest:
    config = {"data": DATA, "teacher": TEACHER, "chunk_rows": 40, "augment": PLAIN, "views": 2, "workers": 0}
    return extract(ExtractConfig(**{**config, "out": Path(out), **changes})).manifest


def content(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def batches_of(view: AugmentedView) -> torch.Tensor:
    """The inputs of a whole view, made here, mixing included."""
    samples = load_data(DATA)
    ids = samples.sample_ids.to_pylist()
    raws = torch.stack([samples.raw(i) for i in range(len(samples))])
    inputs = view.batch(raws, ids)
    if not view.augmentation.mixes:
        return inputs
    mixing = view.mixing(ids, len(samples))
    return view.mixed(inputs, inputs[mixing.rows], mixing)


@pytest.mark.parametrize("spec", SPECS)
def test_a_store_holds_what_the_teacher_says_of_every_view_and_how_it_was_drawn(tmp_path: Path, spec: str) -> None:
    import seen_teacher  # pyright: ignore[reportMissingImports]

    manifest = make(tmp_path / "d.kd", augment=spec, codec="float32", batch_size=120, chunk_rows=120)
    assert manifest.augmentation == Augmentation.parse(spec).to_dict()
    assert Augmentation.of(manifest) == Augmentation.parse(spec)
    store, ids = open_store(tmp_path / "d.kd"), load_data(DATA).sample_ids.to_pylist()
    raws = torch.stack([load_data(DATA).raw(i) for i in range(120)])
    for view in range(2):
        drawn = AugmentedView(
            augmentation=Augmentation.parse(spec),
            preprocessing=Preprocessing.parse("image,mean=0.5,std=0.25"),
            view=view,
        )
        inputs = batches_of(drawn)
        with torch.no_grad():
            logits = seen_teacher.teacher(1)(inputs).numpy()
        read = store.read(range(120), arrays=[array.name for array in manifest.arrays], view=view)
        np.testing.assert_array_equal(read["logits"], logits)
        geometry = drawn.geometry(raws, ids)
        np.testing.assert_array_equal(read["boxes"], geometry.boxes)
        np.testing.assert_array_equal(read["flips"][:, 0], geometry.flips)
        if drawn.augmentation.mixes:
            mixing = drawn.mixing(ids, 120)
            np.testing.assert_array_equal(read["mix_rows"][:, 0], mixing.rows)
            np.testing.assert_array_equal(read["mix_ratios"][:, 0], mixing.ratios)
            np.testing.assert_array_equal(read["mix_cuts"], mixing.cuts)
        for kept in store.receipt(view).inputs:
            assert kept.digest == input_digest(inputs[kept.row])
    assert verify(tmp_path / "d.kd", deep=True).errors == ()


@pytest.mark.parametrize("spec", [MIXED, "rand-augment,size=8"])
@pytest.mark.parametrize("changes", [{"workers": 4}, {"workers": 1, "chunks": "1/2"}], ids=str)
def test_workers_and_ranges_change_no_byte(tmp_path: Path, spec: str, changes: dict[str, Any]) -> None:
    make(tmp_path / "one.kd", augment=spec, batch_size=64)
    make(tmp_path / "two.kd", augment=spec, batch_size=64, **changes)
    make(tmp_path / "two.kd", augment=spec, batch_size=64)
    assert content(tmp_path / "one.kd") == content(tmp_path / "two.kd")


def test_two_processes_make_the_same_store_as_one(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"data": DATA, "teacher": TEACHER, "chunk_rows": 8, "batch_size": 3, "workers": 0}
    config = ExtractConfig(**settings, augment=MIXED, views=3, out=tmp_path / "two.kd")
    assert run_ranks(2, extract, config) == [0, 0]
    make(tmp_path / "one.kd", **settings, augment=MIXED, views=3)
    assert content(tmp_path / "one.kd") == content(tmp_path / "two.kd")


def drawn_and_digests(root: Path, ids: list[str]) -> dict[str, Any]:
    """By sample id, so that stores of any order compare."""
    store = open_store(root)
    rows = [store.samples(["sample_id"])["sample_id"].to_pylist().index(name) for name in ids]
    return {
        f"{name}{view}": store.read(rows, arrays=(name,), view=view)[name].tolist()
        for name in ("boxes", "flips") for view in range(2)
    }  # fmt: skip


def test_batch_size_and_row_order_change_no_draw(tmp_path: Path) -> None:
    ids = load_data(DATA).sample_ids.to_pylist()[::7]
    changes: list[dict[str, Any]] = [{"batch_size": 1}, {"batch_size": 256}, {"order": "shuffled:4"}]
    found = []
    for number, change in enumerate(changes):
        make(tmp_path / f"{number}.kd", codec="float32", **change)
        found.append(drawn_and_digests(tmp_path / f"{number}.kd", ids))
    assert found[0] == found[1] == found[2]
    one, other = (
        {kept.row: kept.digest for chunk in range(6) for kept in open_store(tmp_path / name).receipt(chunk).inputs}
        for name in ("0.kd", "1.kd")
    )
    assert one == other


@pytest.mark.parametrize("finished", [True, False])
def test_added_views_leave_what_is_there_as_it_is(tmp_path: Path, finished: bool) -> None:
    root = tmp_path / "d.kd"
    make(root, augment=MIXED, **({} if finished else {"chunks": "1/2"}))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    bytes_before = content(root)
    manifest = make(root, augment=MIXED, views=4)
    assert (manifest.num_views, manifest.state) == (4, "complete")
    whole = content(root)
    touched = {path.name for path, then in before.items() if path.stat().st_mtime_ns != then}
    assert touched == {"manifest.json", "zarr.json"}
    assert all(whole[name] == data for name, data in bytes_before.items() if not name.endswith("zarr.json"))
    assert verify(root, deep=True).errors == ()
    at_once = make(tmp_path / "once.kd", augment=MIXED, views=4)
    assert content(tmp_path / "once.kd") == whole
    assert (at_once.store_id, at_once.receipts) == (manifest.store_id, manifest.receipts)
    import zarr

    array: Any = zarr.open_group(root / "payload.zarr", mode="r")["logits"]
    assert array.shape == (4, 120, 10)
    assert np.isfinite(array[3]).all()


def test_fewer_views_than_there_are_change_nothing(tmp_path: Path) -> None:
    make(tmp_path / "d.kd")
    before = (tmp_path / "d.kd" / "manifest.json").read_bytes()
    config = ExtractConfig(
        data=DATA, teacher=TEACHER, out=tmp_path / "d.kd", chunk_rows=40, augment=PLAIN, views=1, workers=0
    )
    assert extract(config).was_complete
    assert (tmp_path / "d.kd" / "manifest.json").read_bytes() == before


def test_other_draws_are_another_store(tmp_path: Path) -> None:
    one = make(tmp_path / "d.kd", views=1)
    for other in (f"{PLAIN},seed=1", "crop-flip,size=8,padding=1", MIXED):
        with pytest.raises(MismatchError, match="augmentation"):
            make(tmp_path / "d.kd", augment=other)
        assert make(tmp_path / f"{other}.kd", augment=other, views=1).store_id != one.store_id
    with pytest.raises(MismatchError, match="augmentation"):
        make(tmp_path / "d.kd", augment=None, views=1)
    assert make(tmp_path / "three.kd", views=3).store_id == one.store_id


def test_views_are_not_added_by_libraries_that_draw_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "d.kd"
    make(root)
    before = (root / "manifest.json").read_bytes()
    other = LibraryProbe(digest="other", libraries={"torchvision": "9.9"})
    monkeypatch.setattr(sys.modules[extract.__module__], "take_probe", lambda _: other)
    assert make(root).num_views == 2  # nothing is drawn: nothing to refuse
    with pytest.raises(MismatchError, match=r"torchvision .* then, 9\.9 now"):
        make(root, views=3)
    assert (root / "manifest.json").read_bytes() == before


def test_views_are_not_added_while_another_process_writes(tmp_path: Path) -> None:
    from kdpipe.stores.claims import ChunkClaims

    make(tmp_path / "d.kd", chunks="1/2")
    claims = ChunkClaims(tmp_path / "d.kd")
    assert claims.take(5)
    with pytest.raises(RefusedError, match="is being written by"):
        make(tmp_path / "d.kd", views=3)
    claims.release_all()
    assert make(tmp_path / "d.kd", views=3).state == "complete"


def test_a_killed_extraction_that_is_resumed_is_the_same(tmp_path: Path) -> None:
    root = tmp_path / "killed.kd"
    settings: dict[str, Any] = {"chunk_rows": 8, "augment": MIXED, "views": 3, "batch_size": 3}
    config = ExtractConfig(data=DATA, teacher=TEACHER, out=root, workers=0, **settings)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdpipe.pipeline"])
    for view in (0, 1):
        process = context.Process(target=extract, args=(config,))
        process.start()
        awaited, deadline = root / receipt_file(15 * view + 4), time.monotonic() + 60
        while not awaited.exists() and time.monotonic() < deadline and process.is_alive():
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    make(root, **settings)
    make(tmp_path / "whole.kd", **settings)
    assert content(root) == content(tmp_path / "whole.kd")


def test_the_teacher_confirms_every_view(tmp_path: Path) -> None:
    root = tmp_path / "d.kd"
    make(root, augment=MIXED, views=3)
    assert recheck(root, teacher=TEACHER, data=DATA, rows=90, device="cpu").findings == ()
    path = root / "payload.zarr/logits/c/2/1/0"
    values = np.fromfile(path, np.float16)
    (values + np.float16(0.5)).tofile(path)
    (finding,) = recheck(root, teacher=TEACHER, data=DATA, rows=90, device="cpu").findings
    assert (finding.path, finding.chunk) == ("payload.zarr/logits/c/2/1/0", 7)


def test_a_damaged_chunk_of_a_later_view_is_found_moved_aside_and_made_again(tmp_path: Path) -> None:
    from kdpipe.stores.checks.repair import repair

    root = tmp_path / "d.kd"
    make(root, augment=MIXED)
    before = content(root)
    path = root / "payload.zarr/mix_rows/c/1/2/0"
    np.full(40, 5000, np.uint32).tofile(path)
    assert [finding.chunk for finding in verify(root, deep=True).errors] == [5]
    assert repair(root).chunks == (5,)
    make(root, augment=MIXED)
    assert {name: data for name, data in content(root).items() if not name.startswith("quarantine")} == before


@pytest.mark.parametrize(
    ("array", "value", "problem"),
    [
        ("boxes", np.float32(np.nan), "a box is not one"),
        ("flips", np.uint8(2), "a flip is neither 0 nor 1"),
        ("mix_rows", np.uint32(120), "a partner is no row of the store"),
        ("mix_ratios", np.float32(1.5), "a share is not from 0 to 1"),
        ("mix_cuts", np.float32(np.inf), "a box is not one"),
    ],
)
def test_numbers_that_cannot_be_are_found(tmp_path: Path, array: str, value: Any, problem: str) -> None:
    from kdpipe.stores.files import record_of, write_file
    from kdpipe.stores.layout import array_file
    from kdpipe.stores.manifest import Receipt, replace
    from kdpipe.stores.writer import receipts_checksum

    root = tmp_path / "d.kd"
    manifest = make(root, augment=MIXED, views=1, chunk_rows=120)
    name = array_file(array, 0, 0)
    values = np.fromfile(root / name, value.dtype)
    values[4] = value
    write_file(root, name, values.tobytes())
    receipt = Receipt.read(root, manifest.grid, 0)
    files = tuple(record_of(name, values.tobytes()) if one.path == name else one for one in receipt.files)
    Receipt(chunk=0, view=0, start=0, stop=120, files=files, inputs=receipt.inputs).write(root)
    replace(manifest, receipts=receipts_checksum(root, manifest)).write(root)
    (finding,) = verify(root, deep=True).errors
    assert finding.path == name
    assert finding.problem.startswith(problem)


def test_stores_without_augmentation_have_the_ids_they_had(tmp_path: Path) -> None:
    manifest = make(tmp_path / "d.kd", augment=None, views=1)
    assert not {"augmentation"} & manifest.settings().keys()
    assert manifest.settings()["num_views"] == 1
    assert (manifest.augmentation, manifest.probe, manifest.view_arrays) == (None, None, ())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"augment": None, "views": 2}, "Without --augment all views would be the same"),
        ({"views": 0}, "views is 0"),
        ({"augment": "crop-flop,size=8"}, "Did you mean 'crop-flip'"),
        ({"augment": "crop-flip"}, "size"),
        ({"augment": "crop-flip,size=80"}, "no room for a crop"),
        ({"augment": "crop-flip,size=8,mixup=9"}, "mixup is 9"),
        ({"augment": "nowhere.toml"}, "cannot be read"),
        ({"data": "python:vectors:data"}, "Only images can be augmented"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(tmp_path: Path, module: Any, changes: dict[str, Any], problem: str) -> None:
    module("vectors", "import torch\ndef data(): return [(torch.rand(64), i % 2) for i in range(8)]\n")
    with pytest.raises(UsageError, match=problem):
        make(tmp_path / "d.kd", **changes)
    assert not (tmp_path / "d.kd").exists()


def test_a_teacher_that_cannot_take_the_views_is_named(tmp_path: Path) -> None:
    from kdpipe.stores import KdpipeError

    with pytest.raises(KdpipeError, match="cannot take inputs of shape"):
        make(tmp_path / "d.kd", augment="rrc-flip,size=9")


def test_a_manifest_does_not_grow_with_the_views(tmp_path: Path) -> None:
    from kdpipe.stores.manifest import replace

    manifest = make(tmp_path / "d.kd", augment=MIXED)
    assert len(replace(manifest, num_views=1000).to_json()) - len(manifest.to_json()) == 3


def test_inspect_says_how_views_were_drawn(tmp_path: Path) -> None:
    from click.testing import CliRunner
    from kdpipe.cli.store import store

    make(tmp_path / "d.kd", augment=MIXED)
    shown = CliRunner().invoke(store, ["inspect", str(tmp_path / "d.kd")]).output
    assert "2 view(s)" in shown
    assert "size 8, padding 2" in shown
    assert "mixup 0.4, cutmix 1" in shown


@pytest.mark.parametrize("codec", ["topk:4,temperatures=1,4", "int8+zstd"])
def test_any_codec_keeps_the_same_draws(tmp_path: Path, codec: str) -> None:
    make(tmp_path / "plain.kd", augment=MIXED)
    manifest = make(tmp_path / "coded.kd", augment=MIXED, codec=codec)
    assert verify(tmp_path / "coded.kd", deep=True).errors == ()
    names = [array.name for array in manifest.view_arrays]
    plain, coded = (
        open_store(tmp_path / name).read(range(120), arrays=names, view=1) for name in ("plain.kd", "coded.kd")
    )
    assert len(names) == 5
    for name in names:
        np.testing.assert_array_equal(plain[name], coded[name])
    assert recheck(tmp_path / "coded.kd", teacher=TEACHER, data=DATA, rows=60, device="cpu").findings == ()
