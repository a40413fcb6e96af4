from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def store(write_store: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 2 views with 5 chunks each, the last of them partial. Not to be changed."""
    path = tmp_path_factory.mktemp("local") / "a.kd"
    write_store(path, 18, 5, 4, num_views=2)
    return path
