"""Data sets by spec, each sample with a stable id."""

# imported for their registrations
from . import embedded as embedded
from . import folder as folder
from . import map_dataset as map_dataset
from .registry import data_source, load_data
from .samples import ArrayItems, LongTail, Samples

__all__ = ["ArrayItems", "LongTail", "Samples", "data_source", "load_data"]
