"""kdpipe: run the teacher once, train every student from the store."""

from typing import TYPE_CHECKING, Any

# absolute imports here, relative ones everywhere else: test runners import a root package under other names
if TYPE_CHECKING:
    from kdpipe.stores import JoinedDataset, KdpipeError, Manifest, Store, open_store

__version__ = "0.1.0"

__all__ = ["JoinedDataset", "KdpipeError", "Manifest", "Store", "__version__", "open_store"]


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for, so that the command line starts at once."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from kdpipe import stores

    return getattr(stores, name)


def __dir__() -> list[str]:
    return __all__
