"""Other ways to keep logits, each in its plain set-up, as its users call it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Read = Callable[[np.ndarray], Any]


@dataclass
class Rival:
    """How a rival reads a batch of rows, given the folder with ``store.kd`` and ``flat.npy``.

    Attributes:
        opened: makes the reader; what it yields is called with the rows of a batch.
    """

    opened: Callable[[Path, int], Iterator[Read]]
    _running: Iterator[Read] | None = field(default=None, repr=False)

    def open(self, place: Path, num_classes: int) -> Read:
        """Write the rival's files, where needed, and open them."""
        self._running = self.opened(place, num_classes)
        return next(self._running)

    def close(self) -> None:
        """Let go of the files."""
        if self._running is not None:
            next(self._running, None)


def write_flat(place: Path, num_classes: int) -> None:
    """The store's logits as one .npy file."""
    from kdpipe.stores import open_store

    store = open_store(place / "store.kd")
    flat = np.lib.format.open_memmap(place / "flat.npy", "w+", np.float16, (len(store), num_classes))
    for start in range(0, len(store), 8192):
        rows = np.arange(start, min(start + 8192, len(store)))
        flat[rows] = store.read(rows)["logits"]
    flat.flush()


def _zarr(place: Path, _: int) -> Iterator[Read]:
    import zarr

    logits = zarr.open_group(place / "store.kd" / "payload.zarr", mode="r")["logits"]
    yield lambda rows: logits.oindex[0, rows]  # pyright: ignore


def _h5py(place: Path, num_classes: int) -> Iterator[Read]:
    import h5py  # pyright: ignore[reportMissingImports]

    path = place / "logits.h5"
    if not path.exists():
        with h5py.File(path, "w") as file:
            flat = np.load(place / "flat.npy", mmap_mode="r")
            file.create_dataset("logits", data=flat, chunks=(256, num_classes))
    with h5py.File(path, "r") as file:
        logits = file["logits"]

        def read(rows: np.ndarray) -> np.ndarray:  # h5py wants ascending rows
            order = np.argsort(rows)
            return logits[rows[order]][np.argsort(order)]  # pyright: ignore

        yield read


def _lmdb(place: Path, num_classes: int) -> Iterator[Read]:
    import lmdb  # pyright: ignore[reportMissingImports]

    path = place / "logits.lmdb"
    flat = np.load(place / "flat.npy", mmap_mode="r")
    if not path.exists():
        with lmdb.open(str(path), map_size=2 * flat.nbytes + (1 << 28)) as made, made.begin(write=True) as writing:
            for row in range(len(flat)):
                writing.put(b"%09d" % row, flat[row].tobytes(), append=True)
    environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
    with environment.begin(buffers=True) as reading:
        out = np.empty((256, num_classes), np.float16)

        def read(rows: np.ndarray) -> np.ndarray:
            for place_, row in enumerate(rows.tolist()):
                out[place_] = np.frombuffer(reading.get(b"%09d" % row, b""), np.float16)
            return out

        yield read
    environment.close()
    shutil.rmtree(path)


def _datasets(place: Path, num_classes: int) -> Iterator[Read]:
    import datasets
    import pyarrow as pa

    datasets.disable_progress_bars()
    path = place / "hf"
    if not path.exists():
        flat = np.load(place / "flat.npy", mmap_mode="r")
        parts = [
            pa.table({"logits": pa.FixedSizeListArray.from_arrays(pa.array(flat[s : s + 8192].ravel()), num_classes)})
            for s in range(0, len(flat), 8192)
        ]
        datasets.Dataset(pa.concat_tables(parts)).save_to_disk(path)
    table = datasets.load_from_disk(path).with_format("numpy")
    yield lambda rows: table[rows]["logits"]  # pyright: ignore
    shutil.rmtree(path)


def _by_key(place: Path, num_classes: int) -> Iterator[Read]:
    """As TinyViT keeps them: a file of keys and a file of fixed-size values, read value by value."""
    flat = np.load(place / "flat.npy", mmap_mode="r")
    size = 2 * num_classes
    if not (place / "values.bin").exists():
        flat.tofile(place / "values.bin")
        (place / "keys.txt").write_text("".join(f"images/{row:08d}.jpg\n" for row in range(len(flat))))
    offsets = {key: size * row for row, key in enumerate((place / "keys.txt").read_text().splitlines())}
    with (place / "values.bin").open("rb") as values:

        def read_one(row: int) -> np.ndarray:
            values.seek(offsets[f"images/{row:08d}.jpg"])
            return np.frombuffer(values.read(size), np.float16)

        yield lambda rows: np.stack([read_one(row) for row in rows.tolist()])


RIVALS = {
    "zarr-python, oindex": Rival(_zarr),
    "h5py, chunks of 256 rows": Rival(_h5py),
    "LMDB, a key a sample": Rival(_lmdb),
    "Hugging Face datasets, numpy format": Rival(_datasets),
    "a file of values by key (as TinyViT)": Rival(_by_key),
}
