"""The catalog: every store under a place, by its manifest alone, and nothing can make it fail."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kdpipe.stores import CorruptStoreError, UsageError
from kdpipe.stores.manifest import Accuracy
from kdpipe.stores.remote import catalog as catalog_module
from kdpipe.stores.remote.catalog import catalog
from kdpipe.stores.remote.location import Location
from kdpipe.stores.remote.objects import LocalObjects, Objects, open_objects
from kdpipe.stores.remote.push import CLAIM, push
from kdpipe.stores.remote.transfer import in_parallel
from seaweed import SeaweedServer
from slow_proxy import SlowProxy


@pytest.fixture(scope="module")
def shelf(
    write_store: Callable[..., Any], content: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with stores of every kind."""
    root = tmp_path_factory.mktemp("shelf")
    write_store(root / "a.kd", 8, 5, 4, owner="team a", licence="CC-BY-4.0", note="first")
    made = content(12, 6, 4, arrays=("ranks",), num_views=2)
    made.write(root / "deep" / "er" / "b.kd").finish(Accuracy(overall=0.5, balanced=0.25))
    content(8, 5, 4).write(root / "begun.kd", [0])
    for name, before, after in (
        ("newer.kd", '"format_version": "1.0"', '"format_version": "9.0"'),
        ("altered.kd", "resnet50", "resnet51"),
        ("cut.kd", "checksum", ""),
    ):
        shutil.copytree(root / "a.kd", root / name)
        text = (root / name / "manifest.json").read_text()
        (root / name / "manifest.json").write_text(text.partition(before)[0] + after + text.partition(before)[2])
    (root / "cut.kd" / "manifest.json").write_text('{"format_version": "1.0"')
    (root / "notes").mkdir()
    (root / "notes" / "readme.txt").write_text("not a store")
    (root / "coming").mkdir()
    (root / "coming" / CLAIM).write_text("{}")
    return root


STATES = {
    "a.kd": "complete", "altered.kd": "damaged", "begun.kd": "writing", "coming": "pushing", "cut.kd": "damaged",
    "deep/er/b.kd": "complete", "newer.kd": "newer",
}  # fmt: skip


def upload(root: Path, url: str) -> None:
    objects: Objects = open_objects(Location.parse(url))
    files = [path for path in root.rglob("*") if path.is_file()]
    in_parallel(files, lambda path: objects.replace(path.relative_to(root).as_posix(), path.read_bytes()))


@pytest.mark.parametrize("remote", [True, False])
def test_every_store_is_listed_with_what_its_manifest_says(
    remote: bool, shelf: Path, request: pytest.FixtureRequest
) -> None:
    place = str(shelf)
    if remote:
        place = request.getfixturevalue("bucket")
        upload(shelf, place)
    entries = {entry.name: entry for entry in catalog(place)}
    assert {name: entry.state for name, entry in entries.items()} == STATES
    assert all((entry.problem is None) == (entry.state in ("complete", "writing")) for entry in entries.values())
    assert all(entry.url == f"{place}/{name}" for name, entry in entries.items())
    a, b = entries["a.kd"], entries["deep/er/b.kd"]
    assert (a.owner, a.licence, a.note, a.teacher) == ("team a", "CC-BY-4.0", "first", "torchvision:resnet50")
    assert (a.samples, a.classes, a.views, a.arrays) == (8, 5, 1, ("logits float16", "ranks uint8"))
    assert a.payload_bytes == sum(path.stat().st_size for path in (shelf / "a.kd").rglob("c/*/*/0"))
    assert (b.accuracy, b.views, b.arrays) == (0.5, 2, ("ranks uint8",))


def test_no_payload_is_read(store: Path, bucket: str, server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x.kd", "y.kd"):
        push(store, f"{bucket}/{name}")
    with SlowProxy(server.ports["s3"]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        assert [entry.name for entry in catalog(bucket)] == ["x.kd", "y.kd"]
        assert proxy.requests == 3 + 2, "a listing for each folder, a manifest for each store"


def test_one_store_is_a_catalog_of_itself_on_the_web_too(server: SeaweedServer, store: Path, bucket: str) -> None:
    push(store, bucket)
    for place in (str(store), bucket, bucket.replace("s3:/", server.files)):
        (entry,) = catalog(place)
        assert (entry.name, entry.state, entry.samples) == (".", "complete", 18)
    with pytest.raises(UsageError, match="cannot be listed"):
        catalog(server.files)


def test_what_is_empty_or_missing(bucket: str, tmp_path: Path) -> None:
    assert catalog(bucket) == []
    assert catalog(tmp_path) == []
    with pytest.raises(UsageError, match="not a folder"):
        catalog(tmp_path / "nothing")


def test_a_place_with_too_many_folders_is_refused(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "_MAX_FOLDERS", 5)
    with pytest.raises(Exception, match="more than 5 folders"):
        catalog(shelf)


def test_a_manifest_that_is_too_large_is_listed_as_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.kd").mkdir()
    (tmp_path / "a.kd" / "manifest.json").write_bytes(b" " * 2000)
    monkeypatch.setattr(catalog_module, "MAX_DOCUMENT_BYTES", 1000)
    assert [(entry.state, entry.samples) for entry in catalog(tmp_path)] == [("damaged", None)]
    with pytest.raises(CorruptStoreError, match="refused unread"):
        open_objects(Location.parse(tmp_path)).read("a.kd/manifest.json", limit=1000)


def test_a_folder_of_somebody_elses_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "empty").mkdir()
    children = LocalObjects.children

    def forbidden(self: LocalObjects) -> tuple[list[str], list[str]]:  # root may read everything
        if self.location.folder.name == "theirs":
            raise PermissionError(13, "Permission denied")
        return children(self)

    monkeypatch.setattr(LocalObjects, "children", forbidden)
    (entry,) = catalog(tmp_path)
    assert (entry.name, entry.state) == ("theirs", "unreadable")
