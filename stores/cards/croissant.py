"""A store's tables in Croissant, the metadata format of MLCommons.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html
"""

import hashlib
from typing import Any

import pyarrow as pa

from ..layout import CLASSES
from ..reader import Store
from ..tables import CLASSES_SCHEMA, SAMPLES_SCHEMA

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_TYPES = {
    pa.int32(): "sc:Integer",
    pa.int64(): "sc:Integer",
    pa.string(): "sc:Text",
    pa.bool_(): "sc:Boolean",
    pa.float32(): "sc:Float",
}
# what the specification asks every file to begin with
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(store: Store) -> dict[str, Any]:
    """croissant.json: the class table and the samples tables, as files and as records.

    Paths are relative to the store, so the file belongs into its folder. The class table has its SHA-256; the samples
    tables are a set of files, which has none.
    """
    manifest = store.manifest
    _ = store.classes  # of a remote store, this fetches the table and proves it
    digest = hashlib.sha256((store.path / CLASSES).read_bytes()).hexdigest()
    parquet = "application/x-parquet"
    records = [_records("classes", CLASSES_SCHEMA, {"fileObject": {"@id": CLASSES}})]
    files: list[dict[str, Any]] = [
        {"@type": "cr:FileObject", "@id": CLASSES, "name": CLASSES, "contentUrl": CLASSES, "encodingFormat": parquet,
         "sha256": digest}
    ]  # fmt: skip
    if manifest.state == "complete":
        files.append({"@type": "cr:FileSet", "@id": "samples-tables", "name": "samples-tables",
                      "encodingFormat": parquet, "includes": "samples/*.parquet"})  # fmt: skip
        records.append(_records("samples", SAMPLES_SCHEMA, {"fileSet": {"@id": "samples-tables"}}))
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": str(store).rstrip("/").rpartition("/")[2],
        "description": f"A teacher's logits for {manifest.num_samples:,} samples of {manifest.num_classes:,} classes.",
        "conformsTo": CONFORMS_TO,
        "license": manifest.licence or "unknown",
        "creator": {"@type": "Person", "name": manifest.owner or "unknown"},
        "datePublished": manifest.created,
        "version": "1.0.0",
        "distribution": files,
        "recordSet": records,
    }


def _records(name: str, schema: pa.Schema, source: dict[str, Any]) -> dict[str, Any]:
    fields = [
        {"@type": "cr:Field", "@id": f"{name}/{field.name}", "name": field.name, "dataType": _TYPES[field.type],
         "source": {**source, "extract": {"column": field.name}}}
        for field in schema
    ]  # fmt: skip
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}
