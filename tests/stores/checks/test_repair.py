"""Repair: what is damaged is moved aside and made again, alone; nothing is deleted, and no kill makes it worse."""

import dataclasses
import shutil
from pathlib import Path

import msgspec
import pytest
from kdpipe.stores import CorruptStoreError, Manifest, RefusedError, open_store
from kdpipe.stores.checks import repair as repairs
from kdpipe.stores.checks.repair import repair
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.claims import ChunkClaims, Claim
from kdpipe.stores.layout import CLASSES, MANIFEST, QUARANTINE, array_file, receipt_file, samples_file

from ..conftest import Content, make_content
from .test_verify import SHAPE, files_of, real_content


def snapshot(root: Path) -> dict[str, bytes]:
    """Every file by its path but for the quarantine, the manifest without the times of this run."""
    files = {name: (root / name).read_bytes() for name in files_of(root) if not name.startswith(QUARANTINE)}
    body = msgspec.json.decode(files[MANIFEST])
    kept = {name: value for name, value in body.items() if name not in ("created", "finished", "checksum")}
    return files | {MANIFEST: msgspec.json.encode(kept)}


@pytest.fixture(scope="module")
def content() -> Content:
    return real_content(*SHAPE, num_views=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, content: Content) -> Path:
    root = tmp_path_factory.mktemp("whole") / "a.kd"
    content.write(root).finish()
    return root


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "a.kd"))


def flip(path: Path) -> bytes:
    """Flip a bit in the middle; gives the damaged bytes."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    return bytes(data)


@pytest.mark.parametrize("damage", ["flip", "delete", "empty"])
def test_repair_then_extract_gives_the_same_bytes(whole, store, content, damage):
    for name in files_of(whole):
        chunk = next((n for n in range(6) if name in {receipt_file(n), *chunk_files(n)}), None)
        if damage == "flip":
            flip(store / name)
        elif damage == "delete":
            (store / name).unlink()
        else:
            (store / name).write_bytes(b"")
        damaged = (store / name).read_bytes() if damage != "delete" else None
        repaired = repair(store)
        assert repaired.not_repairable == ()
        assert repaired.chunks == (() if chunk is None else (chunk,))
        if damaged is not None:
            assert (store / str(repaired.quarantine) / name).read_bytes() == damaged
        if name != MANIFEST:
            assert Manifest.read(store).state == "writing"
            assert repaired.changed
            with pytest.raises(RefusedError, match="not finished"):
                open_store(store)
        computed = resume(store, content)
        assert computed == list(repaired.chunks)
        assert snapshot(store) == snapshot(whole)
        assert verify(store, deep=True).whole


def chunk_files(chunk: int) -> list[str]:
    view, block = divmod(chunk, 3)
    return [array_file(name, view, block) for name in ("logits", "ranks")] + ([samples_file(block)] if not view else [])


def resume(store: Path, content: Content) -> list[int]:
    """What the same extraction does; gives the chunks that it computes."""
    later = dataclasses.replace(content.manifest, created="2030-01-01T00:00:00+00:00")
    writer = dataclasses.replace(content, manifest=later).write(store, chunks=[])
    missing = writer.missing_chunks()
    for chunk in missing:
        content.write_chunk(writer, chunk)
    writer.finish()
    return missing


def test_a_whole_store_is_left_as_it_is(store):
    before = {name: (store / name).stat().st_mtime_ns for name in files_of(store)}
    repaired = repair(store)
    assert (repaired.changed, repaired.unfinished, repaired.quarantine) == (False, False, None)
    assert before == {name: (store / name).stat().st_mtime_ns for name in files_of(store)}


def test_an_unfinished_store_without_damage_is_left_as_it_is(tmp_path, content):
    content.write(tmp_path / "a.kd", chunks=[1])
    before = snapshot(tmp_path / "a.kd")
    repaired = repair(tmp_path / "a.kd")
    assert (repaired.changed, repaired.unfinished) == (False, True)
    assert snapshot(tmp_path / "a.kd") == before
    assert not (tmp_path / "a.kd" / QUARANTINE).exists()


def test_a_damaged_chunk_of_an_unfinished_store(tmp_path, content, whole):
    store = tmp_path / "a.kd"
    content.write(store, chunks=[1, 2, 4])
    flip(store / array_file("ranks", 0, 2))
    manifest = (store / MANIFEST).read_bytes()
    assert repair(store).chunks == (2,)
    assert (store / MANIFEST).read_bytes() == manifest
    assert resume(store, content) == [0, 2, 3, 5]
    assert snapshot(store) == snapshot(whole)


def test_everything_of_a_chunk_is_kept_and_the_finished_manifest_too(store, whole):
    flip(store / array_file("ranks", 0, 2))
    (store / receipt_file(4)).unlink()
    repaired = repair(store)
    assert repaired.chunks == (2, 4)
    assert sorted(repaired.moved) == sorted([receipt_file(2), *chunk_files(2), *chunk_files(4)])
    kept = store / str(repaired.quarantine)
    assert files_of(kept) == sorted([*repaired.moved, MANIFEST])
    assert (kept / MANIFEST).read_bytes() == (whole / MANIFEST).read_bytes()
    assert (kept / samples_file(2)).read_bytes() == (whole / samples_file(2)).read_bytes()
    manifest = Manifest.read(store)
    assert (manifest.finished, manifest.accuracy, manifest.receipts) == (None, None, None)


def test_repairs_in_the_same_second_do_not_mix(store, content, monkeypatch):
    folders = set()
    for _ in range(3):
        flip(store / array_file("ranks", 0, 2))
        folders.add(repair(store).quarantine)
        resume(store, content)
    assert len(folders) == 3


def test_what_lies_in_a_files_place_is_moved_whatever_it_is(store, content, whole):
    (store / array_file("ranks", 0, 2)).unlink()
    (store / array_file("ranks", 0, 2)).mkdir()
    (store / CLASSES).unlink()
    (store / CLASSES).symlink_to("nowhere")
    repair(store)
    assert resume(store, content) == [2]
    assert snapshot(store) == snapshot(whole)


@pytest.mark.parametrize("killed_at", range(8))
def test_a_kill_at_any_move_leaves_a_damaged_store_that_can_be_repaired(whole, store, content, monkeypatch, killed_at):
    flip(store / array_file("logits", 0, 1))
    flip(store / array_file("ranks", 1, 1))
    flip(store / CLASSES)
    move, calls = repairs._move, []

    def killed(root: Path, name: str, quarantine: Path) -> bool:
        calls.append(name)
        if len(calls) > killed_at:
            raise KeyboardInterrupt
        return move(root, name, quarantine)

    with monkeypatch.context() as patch:
        patch.setattr(repairs, "_move", killed)
        with pytest.raises(KeyboardInterrupt):
            repair(store)
    assert calls[:2] == [receipt_file(1), receipt_file(4)][: killed_at + 1]
    assert not verify(store).whole
    if killed_at >= 2:  # both receipts are moved: only now does the store open again for an extraction
        with pytest.raises(RefusedError):
            open_store(store)
    else:
        assert open_store(store).manifest.state == "complete"
    repair(store)
    assert resume(store, content) == [1, 4]
    assert snapshot(store) == snapshot(whole)


def test_what_no_chunk_can_be_blamed_for_is_not_repaired(store, tmp_path):
    other = real_content(*SHAPE, num_views=2, seed=1)
    other.write(tmp_path / "other.kd").finish()
    for name in (*chunk_files(4), receipt_file(4)):
        shutil.copy(tmp_path / "other.kd" / name, store / name)
    before = snapshot(store)
    repaired = repair(store)
    assert [finding.check for finding in repaired.not_repairable] == ["fingerprint"]
    assert not repaired.changed
    assert snapshot(store) == before


def test_without_manifest_and_zarr_metadata_nobody_knows_the_store(store):
    (store / MANIFEST).write_bytes(b"{")
    (store / "payload.zarr/zarr.json").write_bytes(b"{")
    repaired = repair(store)
    assert [finding.path for finding in repaired.not_repairable] == [MANIFEST]
    assert (store / MANIFEST).read_bytes() == b"{"


def test_wrong_content_with_right_checksums_is_made_again(tmp_path, whole, content):
    store = tmp_path / "a.kd"
    wrong = dataclasses.replace(content, ranks=content.ranks.copy())
    wrong.ranks[1, 5, [0, 1]] = wrong.ranks[1, 5, [1, 0]]
    wrong.write(store).finish()
    assert repair(store).chunks == (4,)
    assert resume(store, content) == [4]
    assert snapshot(store) == snapshot(whole)


def test_a_store_being_written_is_refused(store, monkeypatch):
    claims = ChunkClaims(store)
    assert claims.take(0)
    flip(store / array_file("ranks", 0, 2))
    with pytest.raises(RefusedError, match=f"process {Claim.mine().pid}"):
        repair(store)
    claims.release_all()
    assert repair(store).changed


def test_no_folder(tmp_path):
    with pytest.raises(CorruptStoreError):
        repair(tmp_path / "nowhere.kd")


def test_warnings_change_nothing(tmp_path):
    content = make_content(*SHAPE)
    content.logits[0, 5] = 3.0
    dataset = real_content(*SHAPE).manifest.dataset
    manifest = dataclasses.replace(content.manifest, dataset=dataset, store_id="")
    dataclasses.replace(content, manifest=manifest).write(tmp_path / "a.kd").finish()
    # rank 0 stays any class: equal logits contradict no order
    repaired = repair(tmp_path / "a.kd")
    assert [finding.severity for finding in repaired.findings] == ["warning"]
    assert not repaired.changed
