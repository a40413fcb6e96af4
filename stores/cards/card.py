"""What a borrower must know of a store, as a page: Markdown with the front matter of dataset cards."""

import json
import re

from ..arrays import ArrayInfo
from ..manifest import Accuracy, Manifest
from ..reader import Store

# upper bounds of the size categories that dataset hubs know
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip
_STORE_ID = re.compile(r'^kdpipe_store: "([^"]+)"$', re.MULTILINE)
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&!])")
_CODECS = {
    "float16": "logits rounded to half precision (relative error at most 2^-11)",
    "float32": "logits as the teacher gave them",
    "int8": "a square-root code of 8 bits below each row's largest logit, which stays the largest",
    "topk": "the best classes only, with logsumexps over all of them: what is left out is not made up",
    "factorised": "features and the last layer, from which logits are computed",
}


def card(store: Store) -> str:
    """README.md: front matter, then what the store is, how it was made, how to read it and how to check it.

    Everything comes from the manifest and the class table. What people wrote into these cannot act as markup.
    """
    manifest, name = store.manifest, str(store).rstrip("/").rpartition("/")[2]
    fields = {
        "license": manifest.licence or "unknown",
        "task_categories": ["image-classification"],
        "size_categories": [next((text for bound, text in _SIZES if manifest.num_samples < bound), "n>1B")],
        "tags": ["knowledge-distillation", "logits", "kdpipe"],
        "pretty_name": f"{name}: teacher logits",
        "kdpipe_store": manifest.store_id,
    }
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in fields.items())  # JSON scalars are YAML
    state = "" if manifest.state == "complete" else "\n**This store is unfinished: chunks are missing.**\n"
    rows = "\n".join(f"| {key} | {_plain(value)} |" for key, value in _facts(manifest) if value)
    arrays = "\n".join(_array_row(array, manifest) for array in manifest.arrays)
    return f"""---
{front}
---

# {_plain(name)}

The logits of one teacher for every sample of a data set: a kdpipe store, from which students are distilled without
running the teacher again.
{state}
| | |
|---|---|
{rows}

## Arrays

| array | dtype | shape (views, samples, width) |
|---|---|---|
{arrays}

Codec: {manifest.logit_codec}, {_CODECS[manifest.logit_codec.name]}.
`classes.parquet` names the {manifest.num_classes:,} classes with their training counts and groups;
`samples/*.parquet` has one row a sample: its id, label, group, and what the teacher said of it.

## Reading it

```python
import kdpipe

store = kdpipe.open_store({json.dumps(str(store))})
batch = store.read([0, 1, 2], arrays={json.dumps([_readable(manifest)])})
```

{_without_kdpipe(manifest)}

## Does it fit your data?

`kdpipe store verify --deep STORE` compares every byte with its receipt.
`kdpipe distill --store STORE --data SPEC` joins by sample id, and refuses data whose inputs differ from the teacher's.
"""


def store_of_card(text: str) -> str | None:
    """The id of the store that a README.md is the card of, whoever has added to it since; None where it is no card."""
    front, end, _ = text.removeprefix("---\n").partition("\n---\n")
    found = _STORE_ID.search(front) if end and text.startswith("---\n") else None
    return found[1] if found else None


def _facts(manifest: Manifest) -> list[tuple[str, str | None]]:
    dataset, teacher = manifest.dataset, manifest.teacher
    return [
        ("store id", manifest.store_id),
        ("samples, classes, views", f"{manifest.num_samples:,}, {manifest.num_classes:,}, {manifest.num_views:,}"),
        ("data", dataset.spec),
        ("sample ids", dataset.sample_ids),
        ("labels", dataset.labels),
        ("long tail", _pairs(dataset.long_tail)),
        ("teacher", f"{teacher.spec}, {teacher.num_parameters:,} parameters, {teacher.checksum}"),
        ("teacher's accuracy", _accuracy(manifest.accuracy)),
        ("preprocessing", _pairs(manifest.preprocessing)),
        ("augmentation", _pairs(manifest.augmentation)),
        ("class groups", manifest.group_rule),
        ("precision, device", f"{manifest.precision}, {manifest.device}"),
        ("payload", f"{manifest.payload_format}, {manifest.payload_bytes / 1e6:,.1f} MB before compression"),
        ("made", f"{manifest.created} by kdpipe {manifest.kdpipe_version}"),
        ("made from", "; ".join(f"{parent.store_id}: {parent.change}" for parent in manifest.parents)),
        ("content", manifest.receipts),
        ("extractor", manifest.extractor),
        ("owner", manifest.owner),
        ("licence", manifest.licence),
        ("note", manifest.note),
    ]


def _array_row(array: ArrayInfo, manifest: Manifest) -> str:
    return f"| {array.name} | {array.dtype} | ({manifest.num_views}, {manifest.num_samples}, {array.width}) |"


def _readable(manifest: Manifest) -> str:
    return "logits" if manifest.components("logits") else manifest.arrays[0].name


def _without_kdpipe(manifest: Manifest) -> str:
    if manifest.payload_format != "zarr":
        return "Without kdpipe: `payload/*.parquet` are plain Parquet files, one row a sample and view."
    name = manifest.arrays[0].name
    return f"""Without kdpipe, it is plain Zarr v3:

```python
import zarr

{name} = zarr.open_group("payload.zarr", mode="r")["{name}"]  # view, sample, {name}
```"""


def _accuracy(accuracy: Accuracy | None) -> str | None:
    if accuracy is None:
        return None
    values = {name: getattr(accuracy, name) for name in ("overall", "balanced", "head", "medium", "tail")}
    return ", ".join(f"{name} {100 * value:.2f} %" for name, value in values.items() if value is not None)


def _pairs(values: object) -> str | None:
    if not values:
        return None
    body = values if isinstance(values, dict) else vars(values)
    return ", ".join(f"{key} {value}" for key, value in body.items() if value is not None)


def _plain(text: object) -> str:
    """A text on one line that Markdown shows as it is."""
    one_line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return _MARKUP.sub(r"\\\1", one_line)
