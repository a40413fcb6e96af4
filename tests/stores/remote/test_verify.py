"""A store is verified where it lies: any object that is missing, cut or altered is named, and nothing is written."""

import dataclasses
from pathlib import Path

import pytest
from kdpipe.stores import KdpipeError, Manifest, RefusedError
from kdpipe.stores.checks.report import Report
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.layout import MANIFEST
from kdpipe.stores.remote import client
from kdpipe.stores.remote.client import RemoteObjects
from kdpipe.stores.remote.location import Location
from kdpipe.stores.remote.objects import LocalObjects
from kdpipe.stores.remote.push import push
from kdpipe.stores.remote.verify import verify_remote
from seaweed import SeaweedServer


@pytest.fixture
def objects(store: Path, bucket: str) -> RemoteObjects:
    push(store, bucket)
    return RemoteObjects(Location.parse(bucket))


def found(report: Report) -> list[tuple[str, str]]:
    return [(finding.path, finding.check) for finding in report.errors]


@pytest.mark.parametrize("deep", [False, True])
def test_a_pushed_store_is_whole(store: Path, objects: RemoteObjects, bucket: str, deep: bool) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(bucket, deep=deep, on_progress=lambda done, total: seen.append((done, total)))
    local = verify(store, deep=deep)
    assert report.whole
    assert (report.path, report.store_id, report.state) == (bucket, local.store_id, "complete")
    assert (report.chunks, report.chunks_checked) == (10, 10)
    assert seen[-1] == (report.files_checked, report.files_checked)
    payload = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert (report.bytes_read == payload) == deep, "every byte once"
    assert "pull the store" in report.notes[0]


def test_every_object_counts(store: Path, objects: RemoteObjects, bucket: str) -> None:
    """Lost, cut or altered, and mended again by the same push."""
    for path in sorted(path.relative_to(store).as_posix() for path in store.rglob("*") if path.is_file()):
        data = (store / path).read_bytes()
        altered = bytes([data[0] ^ 1]) + data[1:]
        for damaged, shallow in ((data[:-2], True), (altered, path.startswith(("receipts", MANIFEST)))):
            objects.replace(path, damaged)
            assert verify_remote(bucket).whole != shallow, path
            report = verify_remote(bucket, deep=True)
            assert path in {one for one, _ in found(report)} or path in report.findings[0].problem, path
            objects.replace(path, data)
        objects.delete(path)
        assert path in {one for one, _ in found(verify_remote(bucket))}
        objects.replace(path, data)
    assert verify_remote(bucket, deep=True).whole


def test_what_each_is_called(store: Path, tmp_path: Path) -> None:
    push(store, tmp_path / "a.kd")
    there = LocalObjects(Location.parse(tmp_path / "a.kd"))
    there.replace("receipts/00003.json", (store / "receipts/00004.json").read_bytes())
    there.delete("samples/00001.parquet")
    there.replace("payload.zarr/ranks/c/0/0/0", b"x")
    there.replace("payload.zarr/logits/c/1/0/0", bytes((store / "payload.zarr/logits/c/1/1/0").read_bytes()))
    there.replace("notes.txt", b"a stranger")
    report = verify_remote(tmp_path / "a.kd", deep=True)
    assert sorted(found(report)) == [
        ("payload.zarr/logits/c/1/0/0", "checksum"),
        ("payload.zarr/ranks/c/0/0/0", "size"),
        ("receipts/00003.json", "receipt"),
        ("samples/00001.parquet", "missing"),
    ]
    assert [one.chunk for one in report.findings if one.check == "receipt"] == [3]
    assert "notes.txt does not belong to the store" in report.notes


def test_receipts_of_another_store_and_an_unfinished_one(store: Path, tmp_path: Path) -> None:
    push(store, tmp_path / "a.kd")
    whole = Manifest.read(store)
    dataclasses.replace(whole, receipts="xxh3-128:" + "0" * 32).write(tmp_path / "a.kd")
    assert found(verify_remote(tmp_path / "a.kd")) == [(MANIFEST, "fingerprint")]
    dataclasses.replace(whole, state="writing", store_id="0" * 16).write(tmp_path / "a.kd")
    assert found(verify_remote(tmp_path / "a.kd")) == [(MANIFEST, "manifest"), (MANIFEST, "unfinished")]
    text = (tmp_path / "a.kd" / MANIFEST).read_text()
    (tmp_path / "a.kd" / MANIFEST).write_text(text.replace('"1.0"', '"2.0"'))
    with pytest.raises(RefusedError, match="Upgrade"):
        verify_remote(tmp_path / "a.kd")
    assert found(verify_remote(tmp_path / "nothing.kd")) == [(MANIFEST, "missing")]


def test_a_place_on_the_web_is_read_and_not_listed(
    objects: RemoteObjects, bucket: str, server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = bucket.replace("s3:/", server.files)
    assert verify(web, deep=True).whole
    assert any("cannot be listed" in note for note in verify(web).notes)
    objects.delete("samples/00001.parquet")
    assert verify(web).whole, "receipts alone do not tell"
    assert found(verify(web, deep=True)) == [("samples/00001.parquet", "missing")]
    monkeypatch.setattr(client, "_RETRY_SECONDS", 0.2)
    with pytest.raises(KdpipeError, match="cannot be reached"):
        verify("http://127.0.0.1:1/a.kd")
