import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kdpipe.stores.content import labels_fingerprint
from kdpipe.stores.manifest import Accuracy


@pytest.fixture(scope="session")
def write_store(content: Callable[..., Any]) -> Callable[..., Any]:
    """``write_store(path, num_samples, num_classes, chunk_rows, ...)``: a finished store that verifies deeply."""

    def write(path: Path, *args: Any, **settings: Any) -> Any:
        made = content(*args, **settings)
        labels = labels_fingerprint(made.samples["label"].to_numpy())
        real = content(*args, **settings, dataset=dataclasses.replace(made.manifest.dataset, labels=labels))
        real.write(path).finish(Accuracy(overall=0.5, balanced=0.25))
        return real

    return write


@pytest.fixture(scope="session")
def store(write_store: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 2 views with 5 chunks each, the last of them partial. Not to be changed."""
    path = tmp_path_factory.mktemp("local") / "a.kd"
    write_store(path, 18, 5, 4, num_views=2)
    return path
