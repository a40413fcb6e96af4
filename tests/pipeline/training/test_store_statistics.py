"""The teacher's masses over a store: their values, one bounded pass, and a cache that can only save time."""

import dataclasses
import json
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kdpipe.pipeline import ExtractConfig, extract
from kdpipe.pipeline.models import load_model
from kdpipe.pipeline.specs import Spec
from kdpipe.pipeline.training import store_statistics
from kdpipe.pipeline.training.store_statistics import cache_folder, class_masses, teacher_masses
from kdpipe.stores import CorruptStoreError, MissingArrayError, Store, open_store
from kdpipe.stores.checks.verify import verify

DATA = "digits,split=train,imbalance=5"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    weights = tmp_path_factory.mktemp("teacher") / "t.pt"
    torch.save(
        load_model(Spec.parse("kdpipe:convnet_tiny"), num_classes=10, in_channels=1).module.state_dict(), weights
    )
    return f"kdpipe:convnet_tiny,weights={weights}"


@pytest.fixture(scope="module")
def path(teacher: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "d.kd"
    extract(ExtractConfig(data=DATA, teacher=teacher, out=path, chunk_rows=64))
    return path


@pytest.fixture
def store(path: Path) -> Store:
    return open_store(path)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kdpipe" / "class-masses"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every read of a store."""
    counted: list[int] = []
    original = Store.read

    def read(self: Store, rows: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        counted.append(len(rows))
        return original(self, rows, **options)

    monkeypatch.setattr(Store, "read", read)
    return counted


def expected(store: Store, rows: np.ndarray, temperature: float) -> np.ndarray:
    logits = store.read(rows)["logits"].astype(np.float64) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).mean(0)


def entry(cache: Path) -> Path:
    (file,) = cache.iterdir()
    return file


# the masses


@pytest.mark.parametrize("block", [2**24, 1000, 1])
def test_masses_are_the_mean_of_the_softmax(store: Store, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_statistics, "_BLOCK_LOGITS", block)
    rows = np.arange(0, len(store), 3)
    for temperature, mass in teacher_masses(store, rows, [1.0, 4.0]).items():
        wanted = expected(store, rows, temperature)
        np.testing.assert_allclose(mass.classes, wanted, rtol=1e-6)
        groups = store.class_groups
        np.testing.assert_allclose(mass.groups, [wanted[groups == g].sum() for g in range(3)], rtol=1e-6)
        assert mass.classes.sum().item() == pytest.approx(1, rel=1e-6)


def test_all_temperatures_are_taken_in_one_pass_of_bounded_blocks(
    store: Store, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_statistics, "_BLOCK_LOGITS", 100 * store.manifest.num_classes)
    masses = class_masses(store, np.arange(len(store)), [1.0, 2.0, 4.0])
    assert set(masses) == {1.0, 2.0, 4.0}
    assert sum(reads) == len(store)
    assert max(reads) == 100


def test_no_temperature_costs_nothing(store: Store, reads: list[int]) -> None:
    assert teacher_masses(store, np.arange(len(store)), []) == {}
    assert reads == []


def test_a_store_without_logits_is_refused(teacher: str, tmp_path: Path) -> None:
    extract(ExtractConfig(data=DATA, teacher=teacher, out=tmp_path / "r.kd", write=("ranks",)))
    with pytest.raises(MissingArrayError, match="logits"):
        class_masses(open_store(tmp_path / "r.kd"), np.arange(4), [1.0])


# the cache


def test_a_second_time_reads_nothing_and_gives_the_same_bits(store: Store, reads: list[int]) -> None:
    rows = np.arange(len(store))
    first = class_masses(store, rows, [1.0, 4.0])
    reads.clear()
    again = class_masses(store, rows, [4, 1])
    assert reads == []
    assert all(np.array_equal(first[temperature], again[temperature]) for temperature in first)
    class_masses(store, rows, [1.0, 2.0])
    assert sum(reads) == len(store), "only the new temperature is computed"


def test_the_store_is_not_touched(path: Path, cache: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    class_masses(open_store(path), np.arange(8), [1.0])
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
    assert entry(cache).suffix == ".json"
    assert list(verify(path, deep=True).findings) == []


def test_other_rows_and_other_stores_are_other_entries(store: Store, teacher: str, tmp_path: Path, cache: Path) -> None:
    extract(ExtractConfig(data="digits,split=train,imbalance=9", teacher=teacher, out=tmp_path / "o.kd"))
    other = open_store(tmp_path / "o.kd")
    for rows in (np.arange(8), np.arange(9), np.arange(1, 9)):
        for each in (store, other):
            np.testing.assert_allclose(class_masses(each, rows, [2.0])[2.0], expected(each, rows, 2.0), rtol=1e-6)
    assert len(list(cache.iterdir())) == 6


def test_another_id_is_another_entry(store: Store, reads: list[int]) -> None:
    """What a codec stores once, beside the chunks, is part of the id and not of the receipts."""
    rows = np.arange(8)
    class_masses(store, rows, [1.0])
    reads.clear()
    store.manifest = dataclasses.replace(store.manifest, store_id="0123456789abcdef")
    class_masses(store, rows, [1.0])
    assert reads == [8]


def test_nothing_is_kept_of_a_store_that_is_not_finished(store: Store, cache: Path) -> None:
    """Its content has no name yet."""
    store.manifest = dataclasses.replace(store.manifest, receipts=None)
    class_masses(store, np.arange(8), [1.0])
    assert not cache.exists()


def damage_by_deleting(file: Path) -> None:
    file.unlink()


def damage_by_cutting(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def damage_a_number(file: Path) -> None:
    body = json.loads(file.read_bytes())
    body["class_mass"][0] += 0.01
    file.write_text(json.dumps(body))


def damage_the_length(file: Path) -> None:
    body = json.loads(file.read_bytes())
    body["class_mass"].append(0.0)
    file.write_text(json.dumps(body))


def damage_the_key(file: Path) -> None:
    """An entry under another's name: whole, but not this one's."""
    body = json.loads(file.read_bytes())
    body["key"]["temperature"] = 3.0
    file.write_text(json.dumps(body))


def damage_the_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe" * 100)


def damage_to_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize(
    "damage",
    [damage_by_deleting, damage_by_cutting, damage_a_number, damage_the_length, damage_the_key, damage_the_text,
     damage_to_a_folder],
)  # fmt: skip
def test_a_damaged_entry_is_made_again(store: Store, cache: Path, reads: list[int], damage: Any) -> None:
    rows = np.arange(len(store))
    first = class_masses(store, rows, [1.0])[1.0]
    damage(entry(cache))
    reads.clear()
    assert np.array_equal(class_masses(store, rows, [1.0])[1.0], first)
    assert sum(reads) == len(store)
    if damage is not damage_to_a_folder:
        reads.clear()
        assert np.array_equal(class_masses(store, rows, [1.0])[1.0], first)
        assert reads == []


def test_a_cache_that_cannot_be_written_costs_only_time(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO):
        masses = class_masses(store, np.arange(8), [1.0])
    np.testing.assert_allclose(masses[1.0], expected(store, np.arange(8), 1.0), rtol=1e-6)
    assert "are not kept" in caplog.text


def test_writers_at_the_same_time_leave_one_whole_entry(path: Path, cache: Path) -> None:
    results: list[np.ndarray] = []

    def work() -> None:
        results.append(class_masses(open_store(path), np.arange(200), [1.0])[1.0])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(result, results[0]) for result in results)
    assert np.array_equal(json.loads(entry(cache).read_bytes())["class_mass"], results[0])


def test_a_damaged_store_is_still_seen(path: Path, tmp_path: Path) -> None:
    """The cache stands in for reading the logits only where they are what was read: content is part of its key."""
    copy = shutil.copytree(path, tmp_path / "copy.kd")
    os.truncate(next(file for file in (copy / "payload.zarr" / "logits" / "c").rglob("*") if file.is_file()), 100)
    with pytest.raises(CorruptStoreError):
        class_masses(open_store(copy), np.arange(len(open_store(copy))), [1.0])


@pytest.mark.parametrize(("value", "relative_to_home"), [("", True), ("relative/path", True), ("/somewhere", False)])
def test_where_the_cache_is(
    value: str, relative_to_home: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    base = tmp_path / ".cache" if relative_to_home else Path(value)
    assert cache_folder() == base / "kdpipe" / "class-masses"
