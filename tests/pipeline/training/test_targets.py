"""Wherever the teacher's arrays are kept, a batch gets the same ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.inputs import Batch, InputDataset
from kdpipe.pipeline.losses import Objective
from kdpipe.pipeline.training.targets import MappedTargets, ResidentTargets, arrays_for, pick_placement
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import MissingArrayError, Store, UsageError, open_store

CPU = torch.device("cpu")
TEACHER = """
import torch
def teacher(num_classes):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        (root / "targets_teacher.py").write_text(TEACHER)
        config: dict[str, Any] = {"data": "digits,split=train", "teacher": "python:targets_teacher:teacher"}
        extract(ExtractConfig(out=root / "d.kd", chunk_rows=100, **config))
        extract(ExtractConfig(out=root / "l.kd", write=("logits",), **config))
    return open_store(root / "d.kd")


@pytest.fixture(scope="module")
def made(store: Store) -> dict[str, Any]:
    # a data set in another order, and with a part of the store's samples
    samples = load_data("digits,split=train").select(np.random.default_rng(0).permutation(898)[:500])
    joined = store.join(InputDataset(samples, Preprocessing()))
    arrays = ["logits", "ranks"]
    ram = ResidentTargets(store, joined, arrays, len(samples), kept_on=CPU, device=CPU)
    return {"samples": samples, "ram": ram, "mmap": MappedTargets(store, joined, arrays, len(samples), device=CPU)}


@pytest.mark.parametrize("placement", ["ram", "mmap"])
def test_a_batch_gets_the_rows_of_its_samples(store: Store, made: dict[str, Any], placement: str) -> None:
    ids = store.samples(["sample_id"])["sample_id"].to_pylist()
    for size in (7, 32, 1):
        positions = np.random.default_rng(size).integers(0, 500, size)
        targets = made[placement](Batch(positions, None, torch.zeros(size)))
        rows = [ids.index(made["samples"].sample_ids[int(position)].as_py()) for position in positions]
        expected = store.read(rows, arrays=("logits", "ranks"))
        for name, values in expected.items():
            assert targets[name].dtype == getattr(torch, str(values.dtype))
            assert np.array_equal(targets[name].numpy(), values)


def test_sixteen_bit_ranks_are_gathered_too(tmp_path: Path) -> None:
    ranks = torch.arange(60_000, 60_012, dtype=torch.int32).to(torch.uint16).reshape(4, 3)
    from kdpipe.pipeline.training.targets import _take

    assert _take(ranks, torch.tensor([3, 0])).to(torch.int32).tolist() == [[60009, 60010, 60011], [60000, 60001, 60002]]


def test_training_is_the_same_wherever_the_store_is_kept(store: Store, tmp_path: Path) -> None:
    weights = set()
    for placement in ("mmap", "ram"):
        for order in ("random", "chunks"):
            out = tmp_path / f"{placement}-{order}"
            result = distill(
                DistillConfig(
                    store=store.path,
                    student="kdpipe:convnet_tiny",
                    loss=("kd", "grkd"),
                    out=out,
                    epochs=1,
                    placement=placement,
                    order=order,
                    optimiser=OptimiserConfig(lr=0.05),
                )
            )
            assert result.summary["placement"] == placement
            weights.add((order, (out / "student.safetensors").read_bytes()))
    assert len(weights) == 2


def test_a_store_without_what_a_loss_needs_is_refused(store: Store) -> None:
    without = open_store(store.path.with_name("l.kd"))
    assert arrays_for(without, Objective.parse(("kd",))) == ["logits"]
    with pytest.raises(MissingArrayError, match=r"'grkd' needs 'ranks'.*--write logits,ranks"):
        arrays_for(without, Objective.parse(("kd", "grkd")))


def test_where_the_arrays_are_kept(store: Store) -> None:
    assert pick_placement("auto", store, ["logits"], 500, CPU) == "mmap"
    assert pick_placement("ram", store, ["logits"], 500, CPU) == "ram"
    with pytest.raises(UsageError, match="--placement gpu needs a GPU"):
        pick_placement("gpu", store, ["logits"], 500, CPU)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_same(store: Store, made: dict[str, Any]) -> None:
    gpu = torch.device("cuda")
    joined = store.join(InputDataset(made["samples"], Preprocessing()))
    arrays = ["logits", "ranks"]
    others = [
        ResidentTargets(store, joined, arrays, 500, kept_on=gpu, device=gpu),
        MappedTargets(store, joined, arrays, 500, device=gpu),
    ]
    for seed in range(20):
        batch = Batch(np.random.default_rng(seed).integers(0, 500, 64), None, torch.zeros(64))
        expected = {name: tensor.clone() for name, tensor in made["mmap"](batch).items()}
        for other in others:
            assert all(torch.equal(tensor.cpu(), expected[name]) for name, tensor in other(batch).items())
    assert pick_placement("auto", store, arrays, 500, gpu) == "gpu"
