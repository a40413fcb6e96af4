"""How a store's arrays lie in files: chunked Zarr arrays, or Parquet, behind one interface (``layout``)."""
