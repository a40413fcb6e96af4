"""kdpipe: run the teacher once, train every student from the store."""

# absolute imports here, relative ones everywhere else: test runners import a root package under other names
from kdpipe.stores import JoinedDataset, KdpipeError, Manifest, Store, open_store

__version__ = "0.1.0"

__all__ = ["JoinedDataset", "KdpipeError", "Manifest", "Store", "__version__", "open_store"]
