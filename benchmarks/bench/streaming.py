"""Streaming a store: batches in three orders against a flat .npy file and what people use, warm and cold; memory."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from kdpipe.stores import open_store
from measure import anonymous_memory, in_child, ratios, spread, take_turns
from rivals import RIVALS, Rival, write_flat
from synthetic import write_store

BATCH_SIZE, WINDOW_CHUNKS = 256, 16
SHAPES = ((200_000, 1000), (1_000_000, 100))
ORDERS = ("random", "chunks", "sequential")
# a rival that is slow reads so many batches, and is told by its rows a second
RIVAL_BATCHES = {"random": 8, "chunks": 40, "sequential": 40}


def run(folder: Path, scale: float = 1.0, *, rivals: bool = True) -> list[dict[str, Any]]:
    """One record for each shape, order and reader."""
    records = []
    for num, num_classes in SHAPES:
        num = max(20_000, int(num * scale))
        place = folder / f"{num}x{num_classes}"
        write_store(place / "store.kd", num, num_classes)
        write_flat(place, num_classes)
        for order in ORDERS:
            records += _warm(place, num, num_classes, order, scale, RIVALS if rivals else {})
        records.append(_cold(place, num, num_classes, scale))
        shutil.rmtree(place)
    return records


def memory(folder: Path, scale: float = 1.0) -> list[dict[str, Any]]:
    """Peak anonymous memory of streaming one epoch, for more and more rows."""
    records = []
    for num in (int(300_000 * scale), int(3_000_000 * scale)):
        write_store(folder / f"{num}.kd", num, 100)
        for order in ORDERS:
            used = in_child(_stream_memory, folder / f"{num}.kd", order)
            records.append({"rows": num, "classes": 100, "order": order, "MB": used / 1e6})
        shutil.rmtree(folder / f"{num}.kd")
    return records


def _warm(
    place: Path, num: int, num_classes: int, order: str, scale: float, rivals: Mapping[str, Rival]
) -> list[dict[str, Any]]:
    store, flat = open_store(place / "store.kd"), np.load(place / "flat.npy", mmap_mode="r")
    kept = np.empty((BATCH_SIZE, num_classes), np.float16)

    def kdpipe() -> None:
        for _ in store.batches(BATCH_SIZE, order=order):
            pass

    def memmap() -> None:
        for rows in _batches(num, store.manifest.chunk_rows, order):
            np.take(flat, rows, axis=0, out=kept[: len(rows)])

    rounds = max(5, int(9 * scale))
    seconds = take_turns({"kdpipe": kdpipe, "memmap": memmap}, rounds)
    shared = {"rows": num, "classes": num_classes, "order": order}
    records = [
        {**shared, "reader": "np.take(memmap, rows, out=...)", "rows/s": num / spread(seconds["memmap"])["median"]},
        {**shared, "reader": "kdpipe", "times memmap": ratios(seconds, "memmap", "kdpipe")},
    ]
    for name, rival in rivals.items():
        batches = list(_some(num, store.manifest.chunk_rows, order))
        read = _reading(rival.open(place, num_classes), batches)
        few = take_turns({"rival": read, "memmap": _few(flat, batches, kept)}, 3)
        records.append({**shared, "reader": name, "times memmap": ratios(few, "memmap", "rival")})
        rival.close()
    return records


def _reading(read: Callable[[np.ndarray], object], batches: list[np.ndarray]) -> Callable[[], object]:
    return lambda: [read(rows) for rows in batches]


def _few(flat: np.ndarray, batches: list[np.ndarray], kept: np.ndarray) -> Callable[[], object]:
    return lambda: [np.take(flat, rows, axis=0, out=kept[: len(rows)]) for rows in batches]


def _some(num: int, chunk_rows: int, order: str) -> Iterator[np.ndarray]:
    for number, rows in enumerate(_batches(num, chunk_rows, order)):
        if number == RIVAL_BATCHES[order]:
            return
        yield rows


def _batches(num: int, chunk_rows: int, order: str) -> Iterator[np.ndarray]:
    """The orders as one would write them in a script."""
    generator = np.random.default_rng(0)
    if order == "random":
        rows = generator.permutation(num)
    elif order == "sequential":
        rows = np.arange(num)
    else:
        chunks = generator.permutation(-(-num // chunk_rows))
        windows = [chunks[start : start + WINDOW_CHUNKS] for start in range(0, len(chunks), WINDOW_CHUNKS)]
        rows = np.concatenate([_mixed(window, chunk_rows, num, generator) for window in windows])
    for start in range(0, num, BATCH_SIZE):
        yield rows[start : start + BATCH_SIZE]


def _mixed(chunks: np.ndarray, chunk_rows: int, num: int, generator: np.random.Generator) -> np.ndarray:
    rows = np.concatenate([np.arange(c * chunk_rows, min(num, (c + 1) * chunk_rows)) for c in chunks.tolist()])
    generator.shuffle(rows)
    return rows


def _cold(place: Path, num: int, num_classes: int, scale: float) -> dict[str, Any]:
    """Chunk-shuffled from a cold disk, against plain reads of the same files from first to last."""
    files = sorted((place / "store.kd").rglob("payload.zarr/logits/c/*/*/*"))
    block = memoryview(bytearray(1 << 20))

    def kdpipe() -> None:
        for _ in open_store(place / "store.kd").batches(BATCH_SIZE, order="chunks"):
            pass

    def plain() -> None:
        for file in files:
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(block):
                    pass

    def forgotten(run: Callable[[], None]) -> Callable[[], None]:
        """Dropping a file from the cache takes no time worth counting."""

        def cold() -> None:
            for file in files:
                descriptor = os.open(file, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)
            run()

        return cold

    os.sync()
    candidates = {"kdpipe": forgotten(kdpipe), "plain": forgotten(plain)}
    seconds = take_turns(candidates, max(5, int(9 * scale)), warm_up=False)
    return {
        "rows": num,
        "classes": num_classes,
        "order": "chunks, cold",
        "reader": "kdpipe",
        "times plain sequential reads": ratios(seconds, "plain", "kdpipe"),
        "plain MB/s": sum(file.stat().st_size for file in files) / spread(seconds["plain"])["median"] / 1e6,
    }


def _stream_memory(path: Path, order: str) -> int:
    store = open_store(path)
    with anonymous_memory() as peak:
        for _ in store.batches(BATCH_SIZE, order=order):
            pass
    return peak()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        for record in run(Path(temporary), 0.2) + memory(Path(temporary), 0.2):
            print(record, flush=True)
