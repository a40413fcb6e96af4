"""Where things lie in a store: file names, and the grid of chunks (runs of whole rows of one view)."""

from dataclasses import dataclass

MANIFEST = "manifest.json"
CLASSES = "classes.parquet"
PAYLOAD = "payload.zarr"
PAYLOAD_TABLES = "payload"  # of a store whose payload is Parquet; readers of Parquet skip names that begin with "_"
PAYLOAD_TABLES_DOCUMENT = f"{PAYLOAD_TABLES}/_store.json"
SAMPLES = "samples"
RECEIPTS = "receipts"
LOCKS = "locks"
QUARANTINE = "quarantine"
# a card may lie in the folder of a store; it is no part of it: no receipt, id or checksum knows it
CARD = "README.md"
CROISSANT = "croissant.json"
CARD_FILES = (CARD, CROISSANT)

DEFAULT_CHUNK_ROWS = 4096
_MAX_CHUNK_BYTES = 32_000_000


@dataclass(frozen=True)
class Grid:
    """The chunks of a store, numbered view by view: chunk = view * chunks_per_view + block.

    Attributes:
        num_samples: N, rows of every view.
        num_views: V.
        chunk_rows: R, rows of a full chunk; only the last chunk of a view may hold fewer.
    """

    num_samples: int
    num_views: int
    chunk_rows: int

    @property
    def chunks_per_view(self) -> int:
        """Chunks (row blocks) in one view."""
        return -(-self.num_samples // self.chunk_rows)

    @property
    def num_chunks(self) -> int:
        """Chunks in all views."""
        return self.chunks_per_view * self.num_views

    def view(self, chunk: int) -> int:
        """The view of a chunk."""
        return chunk // self.chunks_per_view

    def block(self, chunk: int) -> int:
        """The position of a chunk within its view."""
        return chunk % self.chunks_per_view

    def rows(self, chunk: int) -> range:
        """The rows of a chunk."""
        start = self.block(chunk) * self.chunk_rows
        return range(start, min(start + self.chunk_rows, self.num_samples))


def default_chunk_rows(num_samples: int, row_bytes: int) -> int:
    """Rows of a chunk: 4096, halved until a chunk passes no 32 MB; all rows where they are fewer.

    Powers of two keep the chunks of common shapes page-aligned, so that their files can be mapped side by side.
    """
    rows = DEFAULT_CHUNK_ROWS
    while rows * row_bytes > _MAX_CHUNK_BYTES and rows > 1:
        rows //= 2
    return max(1, min(rows, num_samples))


def array_file(array: str, view: int, block: int) -> str:
    """The path of one payload chunk: Zarr v3's default chunk key (view, sample, class)."""
    return f"{PAYLOAD}/{array}/c/{view}/{block}/0"


def samples_file(block: int) -> str:
    """The path of the samples table of one row block."""
    return f"{SAMPLES}/{block:05d}.parquet"


def receipt_file(chunk: int) -> str:
    """The path of a chunk's receipt."""
    return f"{RECEIPTS}/{chunk:05d}.json"
