"""Data sets of named tensors, from the data set to the student: what is seen does not depend on how it is read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kdpipe.pipeline import DistillConfig, ExtractConfig, OptimiserConfig, distill, extract
from kdpipe.pipeline.data import load_data
from kdpipe.pipeline.distill import distill_cohort
from kdpipe.pipeline.inputs import InputDataset, load_batches
from kdpipe.pipeline.recheck import recheck
from kdpipe.pipeline.views import Preprocessing, input_digest
from kdpipe.stores import MismatchError, UsageError, open_store
from kdpipe.stores.errors import KdpipeError
from ranked import run_ranks
from safetensors.numpy import load_file

CODE = """
import torch
from torch import nn

class Words:
    def __init__(self, shift, ragged):
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, 20, (60, 7), generator=generator)
        self.lengths = torch.randint(2, 8, (60,), generator=generator)
        self.targets = (self.tokens[:, 0] % 3).tolist()
        self.classes, self.shift, self.ragged = ["a", "b", "c"], shift, ragged
    def __len__(self): return 60
    def __getitem__(self, i):
        length = int(self.lengths[i])
        tokens, mask = (self.tokens[i] + self.shift) % 20, (torch.arange(7) < length).float()
        inputs = {"input_ids": tokens[:length], "attention_mask": mask[:length]} if self.ragged else {
            "input_ids": tokens, "attention_mask": mask}
        return inputs, self.targets[i]

def words(shift=0, ragged=False): return Words(shift, ragged)

class Bag(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, num_classes)
    def forward(self, input_ids, attention_mask):
        weights = attention_mask / attention_mask.sum(1, keepdim=True)
        attention_mask.zero_()  # in place, as a network may: the others of a cohort must not see it
        return self.head((self.embedding(input_ids) * weights[:, :, None]).sum(1))

def teacher(num_classes):
    torch.manual_seed(1)
    return Bag(num_classes)

def student(num_classes): return Bag(num_classes)

class OneTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(7, 3)
    def forward(self, x): return self.head(x.float())

def one_tensor(): return OneTensor()
"""
DATA, TEACHER, STUDENT = (f"python:words_of_a_test:{name}" for name in ("words", "teacher", "student"))


@pytest.fixture(autouse=True)
def _words(module: Callable[[str, str], None]) -> None:
    module("words_of_a_test", CODE)


def make_store(out: str = "words.kd", **settings: Any) -> Path:
    given: dict[str, Any] = {"data": DATA, "teacher": TEACHER, "chunk_rows": 25, "batch_size": 25, "workers": 0}
    extract(ExtractConfig(out=Path(out), **given | settings))
    return Path(out)


def config(out: str, **settings: Any) -> DistillConfig:
    given: dict[str, Any] = {
        "store": Path("words.kd"), "data": DATA, "val": DATA, "student": STUDENT, "loss": ("kd",), "epochs": 3,
        "batch_size": 20, "workers": 0, "optimiser": OptimiserConfig(lr=0.5),
    }  # fmt: skip
    return DistillConfig(out=Path(out), **given | settings)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 2), (60, 0)])
def test_batches_and_digests_are_those_of_the_items(batch_size: int, workers: int) -> None:
    dataset = InputDataset(load_data(DATA), Preprocessing(), range(60))
    order = np.random.default_rng(0).permutation(60).tolist()
    batches = [order[start : start + batch_size] for start in range(0, 60, batch_size)]
    for batch, positions in zip(load_batches(dataset, batches, num_workers=workers), batches, strict=True):
        assert batch.inputs.keys() == {"input_ids", "attention_mask"}
        for i, position in enumerate(positions):
            item, label = dataset[position]
            assert all(torch.equal(batch.inputs[name][i], item[name]) for name in item)
            assert (batch.digests[position], int(batch.labels[i])) == (input_digest(item), label)


def test_a_store_does_not_depend_on_how_it_is_read() -> None:
    stores = [open_store(make_store("a.kd")), open_store(make_store("b.kd", batch_size=4, workers=2))]
    assert len({tuple(store.receipt(chunk).inputs for chunk in range(3)) for store in stores}) == 1
    logits = [store.read(np.arange(60))["logits"].astype(np.float32) for store in stores]
    np.testing.assert_allclose(*logits, rtol=0, atol=2e-3)
    assert recheck(Path("a.kd"), teacher=TEACHER, data=DATA).findings == ()


def test_students_side_by_side_each_have_their_own_inputs() -> None:
    make_store()
    alone = distill(config("alone"))
    distill_cohort([config("first", optimiser=OptimiserConfig(lr=0.1)), config("second")])
    first, again = (load_file(f"{run}/student.safetensors") for run in ("alone", "second"))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert alone.summary["val"] is not None


def _distill_in(folder: str) -> None:
    distill(config(folder))


def test_two_processes_train_the_student_of_one() -> None:
    make_store()
    distill(config("one"))
    run_ranks(2, _distill_in, "two")
    one, two = (load_file(f"{run}/student.safetensors") for run in ("one", "two"))
    for name, weights in one.items():
        np.testing.assert_allclose(weights, two[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "error", "problem"),
    [
        ({"data": f"{DATA},shift=1"}, MismatchError, "recomputed inputs are not what the teacher saw"),
        (
            {"student": "python:words_of_a_test:one_tensor"},
            KdpipeError,
            r"attention_mask \(20, 7\), input_ids \(20, 7\).*names that its forward takes",
        ),
    ],
)
def test_what_does_not_fit_the_store_is_said(settings: dict[str, str], error: type[KdpipeError], problem: str) -> None:
    make_store()
    with pytest.raises(error, match=problem):
        distill(config("run", **settings))


@pytest.mark.parametrize(
    ("settings", "error", "problem"),
    [
        ({"preprocess": "image,resize=8"}, UsageError, r"tensors by name \(attention_mask, input_ids\)"),
        ({"augment": "crop-flip,size=8,padding=1", "views": 2}, UsageError, "a dict"),
        ({"data": f"{DATA},ragged=true"}, UsageError, r"input_ids \(\d,\) and .*Pad them in the data set"),
        ({"runtime": "onnx"}, UsageError, r"gives attention_mask, input_ids\. Use --runtime torch"),
        ({"teacher": "python:words_of_a_test:one_tensor"}, KdpipeError, "names that its forward takes"),
    ],
)
def test_what_cannot_be_extracted_is_said(settings: dict[str, Any], error: type[KdpipeError], problem: str) -> None:
    with pytest.raises(error, match=problem):
        make_store(**settings)
