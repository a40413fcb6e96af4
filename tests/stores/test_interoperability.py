"""Libraries that know nothing of kdpipe read a pushed store from a real S3 server, each by its own client."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from kdpipe.stores.remote.push import push
from pyarrow.fs import S3FileSystem
from seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, SeaweedServer

Pushed = tuple[str, Any]


@pytest.fixture
def pushed(write_store: Callable[..., Any], bucket: str, tmp_path: Path) -> Pushed:
    """The key of a store of two views, whose last chunks are partial, and what is in it."""
    content = write_store(tmp_path / "a.kd", 18, 5, 4, num_views=2)
    push(tmp_path / "a.kd", f"{bucket}/a.kd")
    return f"{bucket}/a.kd".removeprefix(f"s3://{BUCKET}/"), content


@pytest.mark.parametrize("name", ["logits", "ranks"])
def test_tensorstore_reads_the_payload(name: str, pushed: Pushed, server: SeaweedServer) -> None:
    tensorstore, (key, content) = pytest.importorskip("tensorstore"), pushed
    place = {"driver": "s3", "bucket": BUCKET, "endpoint": server.endpoint, "aws_region": "us-east-1"}
    spec = {"driver": "zarr3", "kvstore": {**place, "path": f"{key}/payload.zarr/{name}/"}}
    _same(tensorstore.open(spec, read=True).result().read().result(), name, content)


@pytest.mark.parametrize("name", ["logits", "ranks"])
def test_zarr_and_xarray_read_the_payload(name: str, pushed: Pushed) -> None:
    obstore, (key, content) = pytest.importorskip("obstore.store"), pushed
    xarray, storage = pytest.importorskip("xarray"), pytest.importorskip("zarr.storage")
    client = obstore.S3Store(BUCKET, prefix=f"{key}/payload.zarr", client_options={"allow_http": True})
    place = storage.ObjectStore(client, read_only=True)
    with xarray.open_zarr(place, consolidated=False, mask_and_scale=False) as data:
        _same(data[name].to_numpy(), name, content)


def test_pyarrow_reads_the_tables(pushed: Pushed, server: SeaweedServer) -> None:
    key, content = pushed
    files = S3FileSystem(
        access_key=ACCESS_KEY, secret_key=SECRET_KEY, endpoint_override=server.endpoint, region="us-east-1"
    )
    table = ds.dataset(f"{BUCKET}/{key}/samples", filesystem=files).to_table().sort_by("row")
    assert table.equals(content.samples)


def test_polars_reads_the_tables(pushed: Pushed, server: SeaweedServer) -> None:
    polars, (key, content) = pytest.importorskip("polars"), pushed
    options = {
        "aws_access_key_id": ACCESS_KEY,
        "aws_secret_access_key": SECRET_KEY,
        "aws_endpoint_url": server.endpoint,
        "aws_region": "us-east-1",
        "aws_allow_http": "true",
    }
    address = f"s3://{BUCKET}/{key}/samples/*.parquet"
    frame = polars.scan_parquet(address, storage_options=options).sort("row").collect()
    assert frame.to_dicts() == content.samples.to_pylist()


def _same(values: np.ndarray, name: str, content: Any) -> None:
    np.testing.assert_array_equal(values, np.stack([content.stored(name, view) for view in range(2)]))
