"""Data sets by spec, each sample with a stable id."""

# imported for their registrations
from . import embedded as embedded
from . import folder as folder
from . import hf as hf
from . import map_dataset as map_dataset
from . import parquet as parquet
from .registry import data_source, load_data
from .samples import ArrayItems, LongTail, Samples

__all__ = ["ArrayItems", "LongTail", "Samples", "data_source", "load_data"]
