"""A store without kdpipe: its payload is plain Zarr v3, its tables are plain Parquet.

Usage: python examples/plain_zarr.py STORE
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import zarr


def main(path: str) -> None:
    store = Path(path)
    manifest = json.loads((store / "manifest.json").read_text())
    payload = zarr.open_group(store / "payload.zarr", mode="r")
    samples = pq.read_table(store / "samples")  # all files of the folder, in row order
    classes = pq.read_table(store / "classes.parquet")

    logits = np.asarray(payload["logits"])[0]  # view 0: (samples, classes)
    top1 = logits.argmax(1)
    accuracy = (top1 == samples["label"].to_numpy()).mean()
    tail = [row["name"] for row in classes.to_pylist() if row["group"] == "tail"]
    recorded = manifest["accuracy"]["overall"]
    print(f"{manifest['num_samples']} samples, teacher {manifest['teacher']['spec']}")
    print(f"tail classes: {', '.join(tail)}")
    print(f"top-1 accuracy of the stored logits: {accuracy:.4f}; the manifest says {recorded:.4f}")


if __name__ == "__main__":
    main(sys.argv[1])
