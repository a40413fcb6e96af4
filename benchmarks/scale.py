"""What the number of chunks costs: a made-up store of very many tiny chunks, and what that says of larger ones.

Usage: python benchmarks/scale.py [CHUNKS | --write]

Prints three tables in Markdown, and with --write puts them into docs/scale.md: the numbers of a store of 10^9 samples x 1000 classes on paper, from one chunk of its real
size; and the seconds and memory of every operation that looks at each chunk, measured on CHUNKS chunks (by default
20,480) and scaled to as many as that store has. Everything is in the page cache; a shared file system adds its own
latency for every file, which the column "files" allows to reckon; and what the list of samples costs every process.
"""

import gc
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import numpy as np
import pages
import pyarrow as pa
from kdpipe.pipeline.data.samples import Samples
from kdpipe.stores import ArrayInfo, Manifest, StoreWriter, open_store
from kdpipe.stores.accuracy import stored_accuracy
from kdpipe.stores.arrays import GROUP_NAMES, class_dtype
from kdpipe.stores.checks.content import labels_fingerprint
from kdpipe.stores.checks.verify import verify
from kdpipe.stores.claims import ChunkClaims
from kdpipe.stores.files import remove_temporaries
from kdpipe.stores.layout import default_chunk_rows, receipt_file, samples_file
from kdpipe.stores.manifest import DatasetInfo, InputDigest, TeacherInfo, fingerprint
from kdpipe.stores.remote.location import Location
from kdpipe.stores.remote.objects import open_objects
from kdpipe.stores.tables import SAMPLES_SCHEMA, classes_table
from kdpipe.stores.writer import receipts_checksum
from measure import anonymous_memory

SAMPLES, CLASSES = 10**9, 1000
DIGESTS = 16
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
# S3's ListObjectsV2 gives 1000 names a request
LISTED = 1000


@dataclass(frozen=True)
class Measured:
    """One operation: what it touches of a chunk, its seconds, and the peak of memory that it took, in bytes."""

    what: str
    files: str
    seconds: float
    memory: int


def main() -> None:
    argument = sys.argv[1] if len(sys.argv) > 1 else "20480"
    chunks = 20_480 if argument == "--write" else int(argument)
    with tempfile.TemporaryDirectory() as name:
        planned, table = on_paper(Path(name))
        text = f"{table}\n{measured(Path(name), chunks, planned)}\n{samples_alone(2_000_000)}"
    print(text)
    if argument == "--write":
        pages.write_part(PAGE, "benchmarks/scale.py --write", text)


def on_paper(folder: Path) -> tuple[int, str]:
    """The number of chunks of the planned store, and its numbers, from one chunk of real size."""
    row_bytes = CLASSES * np.dtype(class_dtype(CLASSES)).itemsize
    rows = default_chunk_rows(SAMPLES, row_bytes)
    chunks = -(-SAMPLES // rows)
    store = begin(folder / "one.kd", rows, rows, CLASSES)
    write(store, 0)
    tables = (store.root / samples_file(0)).stat().st_size
    receipt = (store.root / receipt_file(0)).stat().st_size
    lines = [
        f"| {SAMPLES:,} samples x {CLASSES:,} classes, one view | |",
        "|---|---|",
        f"| rows of a chunk | {rows:,} |",
        f"| chunks | {chunks:,} |",
        f"| files (objects): logits, ranks, samples table and receipt of each chunk | {4 * chunks:,} |",
        f"| payload (float16 logits, uint16 ranks) | {2 * row_bytes * rows * chunks / 1e12:.2f} TB |",
        f"| samples tables ({tables:,} bytes each, ids of 10 characters) | {tables * chunks / 1e9:.1f} GB |",
        f"| receipts ({receipt:,} bytes each) | {receipt * chunks / 1e6:.0f} MB |",
        "| manifest, class table, Zarr documents | < 0.1 MB |",
        f"| requests to list a bucket, {LISTED:,} names each | {4 * chunks / LISTED:,.0f} |",
        f"| chunk numbers that a coordinator holds (a list of Python integers) | {36 * chunks / 1e6:.0f} MB |",
        "",
    ]
    return chunks, "\n".join(lines)


def measured(folder: Path, chunks: int, planned: int) -> str:
    """A table of what every operation costs."""
    rows = []
    store = begin(folder / "many.kd", 16 * chunks, 16, 10)
    with patch("kdpipe.stores.files.sync", lambda _: None):  # what a disk takes to be durable is not measured
        rows.append(timed("write (tiny chunks, no fsync)", "4 written", lambda: write_all(store)))
    root, manifest = store.root, store.manifest
    rows += [
        timed("find abandoned temporary files (begin alone; finish)", "4 listed", lambda: remove_temporaries(root)),
        timed("find the missing chunks (once a process)", "1 read, 3 stat", store.missing_chunks),
        timed("what others have made, for the progress", "1 listed", lambda: [*(root / "receipts").iterdir()]),
        timed("claim and release every chunk", "1 written", lambda: claim_all(root, chunks)),
        timed("finish: accuracy from the samples tables", "1 read", lambda: stored_accuracy(root, manifest, GROUPS)),
        timed("finish: look again, checksum over the receipts", "2 read, 3 stat", store.finish),
        timed("open", "-", lambda: open_store(root)),
        timed("checksum over the receipts alone", "1 read", lambda: receipts_checksum(root, manifest)),
        timed("verify (receipts, sizes, table footers)", "2 read, 3 stat", lambda: verify(root)),
        timed("push: read the receipts", "1 read", lambda: [open_store(root).receipt(c).files for c in range(chunks)]),
        timed("push: list what is there (a folder)", "4 listed", lambda: open_objects(Location.parse(root)).found()),
    ]
    scale = planned / chunks
    lines = [
        f"| {chunks:,} chunks | files a chunk | seconds | µs a chunk | for {planned:,} chunks: minutes | MB |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.what} | {row.files} | {row.seconds:.3g} | {1e6 * row.seconds / chunks:,.0f} | "
            f"{row.seconds * (scale if row.files != '-' else 1) / 60:.2g} | {row.memory * scale / 1e6:,.0f} |"
            for row in rows
        ),
        "",
    ]
    return "\n".join(lines)


def samples_alone(num: int) -> str:
    """What a data set costs a process before it reads the first input, for ids like ``n01440764/img_0000000001.jpg``."""
    ids = pa.array([f"n{row // 1300:08d}/img_{row:010d}.jpg" for row in range(num)])
    started = time.perf_counter()
    samples = Samples(
        spec="synthetic", items=[], indices=np.arange(num), sample_ids=ids, labels=np.arange(num) % CLASSES,
        class_names=tuple(map(str, range(CLASSES))),
    )  # fmt: skip
    samples.info()
    seconds = time.perf_counter() - started
    held = ids.nbytes + samples.labels.nbytes + samples.indices.nbytes
    lines = [
        f"| a list of {num:,} samples | | for {SAMPLES:,} |",
        "|---|---|---|",
        f"| memory, ids of 29 characters | {held / num:.0f} bytes a sample | {held / num * SAMPLES / 1e9:.0f} GB |",
        f"| fingerprints | {1e6 * seconds / num:.2f} µs a sample | {seconds / num * SAMPLES / 60:.0f} minutes |",
        "",
    ]
    return "\n".join(lines)


def timed(what: str, files: str, function: Callable[[], object]) -> Measured:
    gc.collect()
    with anonymous_memory() as peak:
        started = time.perf_counter()
        function()
        seconds = time.perf_counter() - started
    return Measured(what, files, seconds, peak())


def write_all(store: StoreWriter) -> None:
    for chunk in range(store.manifest.grid.num_chunks):
        write(store, chunk)


def claim_all(root: Path, chunks: int) -> None:
    claims = ChunkClaims(root)
    for chunk in range(chunks):
        claims.take(chunk)
        claims.release(chunk)


# --- the made-up store: what it says is right, so that verify finds nothing

GROUPS = np.arange(10) * 3 // 10


def begin(path: Path, num: int, chunk_rows: int, num_classes: int) -> StoreWriter:
    names = [str(number) for number in range(num_classes)]
    groups = [GROUP_NAMES[number * 3 // num_classes] for number in range(num_classes)]
    labels = np.arange(num) % num_classes
    manifest = Manifest(
        num_samples=num,
        num_classes=num_classes,
        chunk_rows=chunk_rows,
        arrays=(
            ArrayInfo(name="logits", dtype="float16", width=num_classes),
            ArrayInfo(name="ranks", dtype=class_dtype(num_classes), width=num_classes),
        ),
        dataset=DatasetInfo(
            spec="synthetic",
            sample_ids=fingerprint(f"{row:010d}" for row in range(num)),
            labels=labels_fingerprint(labels),
            classes=fingerprint(names),
        ),
        teacher=TeacherInfo(spec="synthetic", checksum="", num_parameters=0),
        preprocessing={},
        group_rule="thirds",
        batch_size=256,
        kdpipe_version="0",
        created="",
    )
    return StoreWriter.open(path, manifest, classes_table(names, np.bincount(labels).tolist(), groups))


def write(store: StoreWriter, chunk: int) -> None:
    manifest, rows = store.manifest, store.manifest.grid.rows(chunk)
    size, width = len(rows), manifest.num_classes
    values = np.tile(np.arange(width, 0, -1, dtype=np.float32), (size, 1))
    labels = np.arange(rows.start, rows.stop) % width
    groups = np.array([GROUP_NAMES[number * 3 // width] for number in range(width)])
    weights = np.exp(values[0] - values[0].max())
    columns = {
        "row": np.arange(rows.start, rows.stop),
        "sample_id": [f"{row:010d}" for row in rows],
        "label": labels,
        "group": groups[labels],
        "teacher_top1": np.zeros(size, np.int64),
        "teacher_correct": labels == 0,
        "teacher_confidence": np.full(size, weights.max() / weights.sum()),
        "teacher_entropy": np.random.default_rng(chunk).random(size),
    }
    samples = pa.table([pa.array(columns[f.name], f.type) for f in SAMPLES_SCHEMA], schema=SAMPLES_SCHEMA)
    ranks = np.tile(np.arange(width, dtype=class_dtype(width)), (size, 1))
    inputs = [
        InputDigest(row=int(row), digest=f"xxh3-128:{row:032x}")
        for row in np.unique(np.linspace(rows.start, rows.stop - 1, DIGESTS).round().astype(int))
    ]
    store.write_chunk(chunk, {"logits": values.astype(np.float16), "ranks": ranks}, samples, inputs)


if __name__ == "__main__":
    main()
