"""Files are whole or absent, whatever kills their writer."""

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from kdpipe.stores import CorruptStoreError
from kdpipe.stores.files import (
    FileRecord,
    checksum,
    create_file,
    file_checksum,
    is_temporary,
    remove_temporaries,
    replacing,
    write_file,
)

# XXH3 128 of nothing, as published by xxHash
EMPTY = "xxh3-128:99aa06d3014798d86001c324468d497f"

ENDLESS_WRITER = """
import sys
from pathlib import Path
from kdpipe.stores.files import replacing
with replacing(Path(sys.argv[1])) as temporary, temporary.open("wb") as file:
    while True:
        file.write(b"new" * 100_000)
        file.flush()
        print("writing", flush=True)
"""


def test_a_written_file_matches_its_record(tmp_path):
    record = write_file(tmp_path, "a/b/c.bin", memoryview(b"12345678").cast("I"))
    assert record == FileRecord(path="a/b/c.bin", bytes=8, checksum=checksum(b"12345678"))
    assert (tmp_path / "a/b/c.bin").read_bytes() == b"12345678"
    assert file_checksum(tmp_path / "a/b/c.bin") == record.checksum
    record.check_size(tmp_path)


def test_checksums_are_xxh3_128(tmp_path):
    (tmp_path / "empty").touch()
    assert checksum(b"") == file_checksum(tmp_path / "empty") == EMPTY
    data = bytes(range(256)) * 20_000  # more than one block
    (tmp_path / "long").write_bytes(data)
    assert file_checksum(tmp_path / "long") == checksum(data)


@pytest.mark.parametrize("old", [b"old", None])
def test_a_kill_while_writing_leaves_the_old_file(tmp_path, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    writer = subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    writer.send_signal(signal.SIGKILL)
    assert writer.wait(60) == -signal.SIGKILL
    writer.stdout.close()

    assert (path.read_bytes() if path.exists() else None) == old
    (left,) = (file for file in tmp_path.iterdir() if file != path)
    assert is_temporary(left)
    assert left.stat().st_size > 0
    remove_temporaries(tmp_path)
    assert list(tmp_path.iterdir()) == ([path] if old is not None else [])


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write():
        with replacing(path) as temporary:
            temporary.write_bytes(b"new")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_synced_before_it_gets_its_name_and_its_folder_after(tmp_path, monkeypatch):
    path = tmp_path / "file"
    seen: list[tuple[str, bool]] = []

    def fsync(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        seen.append((kind, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_file(tmp_path, "file", b"data")
    assert seen == [("file", False), ("folder", True)]


def test_two_writers_of_one_file_leave_one_of_the_two(tmp_path):
    with replacing(tmp_path / "file") as one, replacing(tmp_path / "file") as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert (tmp_path / "file").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_temporary_files_are_removed(tmp_path):
    kept = [tmp_path / ".hidden", tmp_path / "a.tmp", tmp_path / "a/b"]
    dead = subprocess.Popen(["true"])
    dead.wait()
    living = tmp_path / f"a/.b~{socket.gethostname()}@1-0123abcd.tmp"
    kept.append(living)
    for path in [*kept, tmp_path / f"a/.b~{socket.gethostname()}@{dead.pid}-0123abcd.tmp"]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    remove_temporaries(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


@pytest.mark.parametrize(
    "path", ["../a", "a/../b", "/etc/passwd", "..", "", ".hidden", "a\\b", "a b", "a\0", "c:/a", "a" * 257]
)
def test_paths_out_of_the_store_are_refused(path):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"path": path, "bytes": 1, "checksum": EMPTY}, FileRecord)


@pytest.mark.parametrize(
    "change", [{"bytes": -1}, {"bytes": 2**48 + 1}, {"checksum": "md5:00"}, {"checksum": EMPTY.upper()}]
)
def test_impossible_records_are_refused(change):
    record = {"path": "a/b", "bytes": 1, "checksum": EMPTY}
    msgspec.convert(record, FileRecord)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(record | change, FileRecord)


def test_a_file_of_another_size_is_corrupt(tmp_path):
    record = write_file(tmp_path, "file", b"12345")
    (tmp_path / "file").write_bytes(b"1234")
    with pytest.raises(CorruptStoreError, match="file has 4 bytes, its record says 5"):
        record.check_size(tmp_path)
    (tmp_path / "file").unlink()
    with pytest.raises(CorruptStoreError, match="file cannot be read"):
        record.check_size(tmp_path)


def test_a_failing_disk_names_the_file(tmp_path, monkeypatch):
    def failing(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a/file'"):
        write_file(tmp_path, "a/file", b"data")
    assert not list(tmp_path.rglob("*.tmp"))


def test_of_many_that_create_a_file_one_does(tmp_path):
    """Threads stand for processes: what decides is the file system."""
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda number: create_file(tmp_path, "a/file", b"%d" % number), range(50)))
    assert sum(created) == 1
    assert (tmp_path / "a/file").read_bytes() == b"%d" % created.index(True)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


def test_a_file_is_created_where_there_are_no_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("pathlib.Path.hardlink_to", refuse)
    assert create_file(tmp_path, "file", b"one")
    assert not create_file(tmp_path, "file", b"two")
    assert (tmp_path / "file").read_bytes() == b"one"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
