"""What each loss does with each codec: what docs/codecs.md says, seen on real stores."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.losses import LOSSES, LossInputs, Objective
from kdpipe.pipeline.training.store_statistics import teacher_masses
from kdpipe.pipeline.training.targets import arrays_for, pick_placement
from kdpipe.stores import MissingArrayError, Store, UsageError, open_store
from kdpipe.stores.codecs import CODECS as KNOWN
from kdpipe.stores.codecs import TopK

ROOT = Path(__file__).parents[2]
DOCS, SCRIPT = ROOT / "docs" / "codecs.md", ROOT / "benchmarks" / "codec_fidelity.py"
DATA = "digits,split=train,imbalance=10"
TEACHER = """
import torch
from torch import nn
def teacher(num_classes):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, num_classes))
"""
CODECS = ["float32", "float16", "int8", "topk:4", "factorised"]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    root = tmp_path_factory.mktemp("stores")
    with pytest.MonkeyPatch.context() as patch:
        (root / "codec_teacher.py").write_text(TEACHER)
        patch.syspath_prepend(root)
        patch.delitem(sys.modules, "codec_teacher", raising=False)
        for codec in [*CODECS, "int8+zstd", "topk:4+zstd"]:
            out = root / f"{codec}.kd"
            extract(ExtractConfig(data=DATA, teacher="python:codec_teacher:teacher", out=out, codec=codec))
    return {path.stem: open_store(path) for path in root.glob("*.kd")}


def gradient(store: Store, objective: Objective) -> torch.Tensor:
    """Of the objective, over the first rows of the store."""
    rows, codec = np.arange(100), store.manifest.logit_codec
    arrays = {name: torch.from_numpy(a) for name, a in store.read(rows, arrays=arrays_for(store, objective)).items()}
    student = torch.randn(100, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()
    batch = LossInputs(
        student_logits=student,
        labels=torch.from_numpy(store.samples(["label"])["label"].to_numpy()[:100].astype(np.int64)),
        class_groups=torch.from_numpy(store.class_groups),
        class_counts=torch.from_numpy(store.classes["count"].to_numpy().copy()),
        teacher_mass=teacher_masses(store, rows, objective.mass_temperatures),
        temperatures=codec.temperatures if isinstance(codec, TopK) else (),
        epoch=0,
        **arrays,
    )
    return torch.autograd.grad(objective(batch)["loss"], student)[0]


def kinds(page: str) -> dict[tuple[str, str], str]:
    """(loss, codec) of the table on a page: "exact", "approximate", "bound" or "refused"."""
    lines = page.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| loss | "))
    codecs = [cell.partition(":")[0] for cell in re.findall(r"`([^`]+)`", lines[start])]
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("| `"):
            break
        loss, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
        for codec, cell in zip(codecs, cells, strict=True):
            kind = cell if cell in ("exact", "refused") else "bound" if cell.startswith("bound") else "approximate"
            assert found.setdefault((loss, codec), kind) == kind
    return found


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("codec", CODECS)
def test_a_loss_does_with_a_codec_what_the_table_says(stores: dict[str, Store], codec: str, name: str) -> None:
    expected = kinds(DOCS.read_text())[name, codec.partition(":")[0]]
    objective = Objective.parse((name,))
    if expected == "refused":
        with pytest.raises(MissingArrayError, match=rf"'{name}' needs all logits; .* keeps the best 4 of 10 only"):
            arrays_for(stores[codec], objective)
        return
    exact, found = gradient(stores["float32"], objective), gradient(stores[codec], objective)
    assert found.isfinite().all()
    error = float((found - exact).norm() / exact.norm())
    if expected == "exact":
        assert error < 1e-6
    else:
        assert 0 < error < (1 if expected == "bound" else 0.2 if name in ("rlkd", "pld", "grkd-rebalanced") else 0.05)


def test_the_table_has_every_loss_and_codec() -> None:
    assert {codec.partition(":")[0] for codec in CODECS} == set(KNOWN)
    assert set(kinds(DOCS.read_text())) == {(loss, codec.partition(":")[0]) for loss in LOSSES for codec in CODECS}


@pytest.mark.parametrize("of_a_store", [False, True])
def test_the_script_prints_such_a_table(
    stores: dict[str, Store], of_a_store: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("codec_fidelity", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "codec_fidelity", script)
    spec.loader.exec_module(script)
    synthetic = script.synthetic
    monkeypatch.setattr(script, "synthetic", lambda: synthetic(rows=64, num_classes=60, num_features=8))
    monkeypatch.setattr(script, "SPECS", ("float32", "float16", "int8", "topk:4", "factorised"))
    monkeypatch.setattr(script, "RANKED", (10,))
    monkeypatch.setattr(sys, "argv", ["codec_fidelity.py", *([str(stores["float32"].path)] if of_a_store else [])])
    script.main()
    found = kinds(capsys.readouterr().out)
    expected = kinds(DOCS.read_text())
    assert found == {place: kind for place, kind in expected.items() if not of_a_store or place[1] != "factorised"}


@pytest.mark.parametrize("name", ["kd", "ltkd", "ltkd,calibration=store"])
def test_compressed_top_k_stores_give_the_same(stores: dict[str, Store], name: str) -> None:
    assert torch.equal(
        gradient(stores["topk:4"], Objective.parse((name,))), gradient(stores["topk:4+zstd"], Objective.parse((name,)))
    )


def test_the_groups_masses_of_a_top_k_store_are_exact(stores: dict[str, Store]) -> None:
    masses = [teacher_masses(stores[codec], np.arange(50), [4.0])[4.0].groups for codec in ("float32", "topk:4")]
    torch.testing.assert_close(*masses, rtol=1e-6, atol=1e-9)


def test_a_temperature_that_is_not_stored_is_refused(stores: dict[str, Store]) -> None:
    for name in ("kd,temperature=2", "ltkd,temperature=2"):
        with pytest.raises(UsageError, match=r"cannot be taken from .*temperature 2 is not stored.*has 1, 4.*=1,4,2"):
            arrays_for(stores["topk:4"], Objective.parse((name,)))
    with pytest.raises(UsageError, match="temperature 2 is not stored"):
        teacher_masses(stores["topk:4"], np.arange(5), [2.0])


def train(store: Store, out: Path, **settings: Any) -> Any:
    config = DistillConfig(
        store=store.path, student="kdpipe:convnet_tiny", out=out, epochs=1, optimiser=OptimiserConfig(lr=0.05),
        **{"loss": ("kd", "ltkd,calibration=store", "grkd"), **settings},
    )  # fmt: skip
    return distill(config)


@pytest.mark.parametrize("codec", ["int8+zstd", "topk:4", "topk:4+zstd", "factorised"])
def test_students_are_trained_from_every_codec(stores: dict[str, Store], tmp_path: Path, codec: str) -> None:
    weights = set()
    for placement in ("auto", "mmap", "ram"):
        result = train(stores[codec], tmp_path / placement, placement=placement)
        weights.add((tmp_path / placement / "student.safetensors").read_bytes())
        assert np.isfinite(result.summary["val"]["overall"] if result.summary["val"] else 1)
    assert len(weights) == 1


def test_a_refused_loss_is_refused_before_training(stores: dict[str, Store], tmp_path: Path) -> None:
    with pytest.raises(MissingArrayError, match=r"can take these \(kd, ltkd\) or one of ranks"):
        train(stores["topk:4"], tmp_path / "run", loss=("dkd",))


def test_compressed_stores_are_kept_in_memory(stores: dict[str, Store]) -> None:
    cpu = torch.device("cpu")
    assert pick_placement("auto", stores["int8+zstd"], ["logits"], 100, cpu) == "ram"
    assert pick_placement("auto", stores["int8+zstd"], ["logits"], 2**45, cpu) == "mmap"
    assert pick_placement("auto", stores["int8"], ["logits"], 100, cpu) == "mmap"
