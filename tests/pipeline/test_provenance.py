"""Whatever is made from a store names it: checkpoints, weights, runs, sweeps and reports; and a store names its parent."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, distill, extract
from kdpipe.pipeline.model_card import ModelCard
from kdpipe.pipeline.report import ReportConfig, report
from kdpipe.pipeline.sweep import SweepConfig, sweep
from kdpipe.stores import Manifest
from kdpipe.stores.reshape.subset import Subset, subset


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store, and one that was made from it."""
    root = tmp_path_factory.mktemp("stores")
    distill(DistillConfig(student="kdpipe:convnet_tiny", data="digits,split=train", out=root / "t", epochs=1))
    teacher = f"kdpipe:convnet_tiny,weights={root / 't' / 'student.safetensors'}"
    extract(ExtractConfig(data="digits,split=train", teacher=teacher, out=root / "whole.kd"))
    subset(root / "whole.kd", root / "part.kd", Subset(per_class=20))
    return {name: root / f"{name}.kd" for name in ("whole", "part")}


def config(store: Path, out: Path, **changes: Any) -> DistillConfig:
    settings: dict[str, Any] = {"student": "kdpipe:convnet_tiny", "loss": ("kd",), "epochs": 2, "workers": 0}
    return DistillConfig(**{**settings, "store": store, "out": out, "val": "digits,split=test", **changes})


def page_of(path: Path) -> str:
    out = path.parent / f"{path.name}.html"
    report(ReportConfig(path=path, out=out))
    return out.read_text()


def test_a_run(stores: dict[str, Path], tmp_path: Path) -> None:
    store_id, run = Manifest.read(stores["part"]).store_id, tmp_path / "run"

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(config(stores["part"], run), interrupt)
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert torch.load(checkpoint, weights_only=True)["store_id"] == store_id
    assert json.loads((run / "config.json").read_text())["resolved"]["store_id"] == store_id
    result = distill(config(stores["part"], run))
    assert result.summary["store_id"] == json.loads((run / "summary.json").read_text())["store_id"] == store_id
    card = ModelCard.of_weights(str(run / "student.safetensors"))
    assert card is not None
    assert card.store_id == store_id
    assert store_id in page_of(run)


def test_a_sweep_over_two_stores(stores: dict[str, Path], tmp_path: Path) -> None:
    ids = {str(path): Manifest.read(path).store_id for path in stores.values()}
    base = config(stores["whole"], tmp_path / "sweep", epochs=1)
    result = sweep(SweepConfig(base=base, losses=("kd",), settings={"store": tuple(ids)}))
    for row in pq.read_table(tmp_path / "sweep" / "trials.parquet").to_pylist():
        assert row["store_id"] == ids[row["store"]]
    resolved = json.loads((tmp_path / "sweep" / "config.json").read_text())["resolved"]
    assert set(resolved["stores"]) == set(ids.values())
    best = ModelCard.of_weights(str(result.best))
    assert best is not None
    assert best.store_id in ids.values()
    page = page_of(tmp_path / "sweep")
    assert all(page.count(store_id) >= 2 for store_id in ids.values()), "among the facts, and beside each trial"


def test_a_store_made_from_another(stores: dict[str, Path]) -> None:
    whole, part = Manifest.read(stores["whole"]), Manifest.read(stores["part"])
    assert [(parent.store_id, parent.receipts) for parent in part.parents] == [(whole.store_id, whole.receipts)]
    page = page_of(stores["part"])
    assert part.store_id in page
    assert whole.store_id in page
