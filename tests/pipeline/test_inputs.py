"""Batches are the items, stacked, whoever reads them; errors arrive as they were raised."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from kdpipe.pipeline.data import Samples, load_data
from kdpipe.pipeline.inputs import InputDataset, load_batches, readable_positions
from kdpipe.pipeline.views import Preprocessing, input_digest
from kdpipe.stores.errors import BadSampleError, UsageError
from PIL import Image

BATCHES = [[3, 0, 7], [5], [3, 9, 9, 1]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for number in range(10):
        path = tmp_path / "photos" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8 + number, 9, 3), np.uint8)).save(path)
    return tmp_path / "photos"


def digits() -> Samples:
    return load_data("digits").select(np.arange(40, 20, -1))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["arrays", "arrays resized", "files"])
def test_batches_are_the_items_stacked(photos: Path, kind: str, workers: int) -> None:
    samples = load_data(f"folder:{photos}") if kind == "files" else digits()
    preprocessing = Preprocessing.parse("image,mean=0.2,std=0.3" + (",resize=6,crop=6" if kind != "arrays" else ""))
    dataset = InputDataset(samples, preprocessing, digested=[9, 5, 2])
    got = list(load_batches(dataset, BATCHES, num_workers=workers))
    assert len(dataset) == len(samples)
    assert [batch.positions.tolist() for batch in got] == BATCHES
    for batch, positions in zip(got, BATCHES, strict=True):
        items = [dataset[position] for position in positions]
        assert torch.equal(batch.inputs, torch.stack([item[0] for item in items]))
        assert batch.labels.tolist() == [item[1] for item in items] == samples.labels[positions].tolist()
        assert batch.labels.dtype == torch.int64
        assert batch.digests == {p: input_digest(dataset[p][0]) for p in positions if p in (9, 5, 2)}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_sample_stops_with_its_own_message(photos: Path, workers: int) -> None:
    (photos / "class1" / "3.png").write_bytes(b"not an image")
    dataset = InputDataset(load_data(f"folder:{photos}"), Preprocessing.parse("image,resize=8,crop=8"))
    batches = load_batches(dataset, [[0, 1], [5, 6], [2]], num_workers=workers)
    assert next(batches).positions.tolist() == [0, 1]
    with pytest.raises(BadSampleError) as caught:
        next(batches)
    assert str(caught.value).startswith(f"{photos}/class1/3.png cannot be read as an image")
    assert "Traceback" not in str(caught.value), "not the text of a worker's exception"


@pytest.mark.parametrize("workers", [0, 2])
def test_inputs_of_different_shapes_are_refused(photos: Path, workers: int) -> None:
    dataset = InputDataset(load_data(f"folder:{photos}"), Preprocessing())
    assert next(load_batches(dataset, [[4]], num_workers=workers)).inputs.shape == (1, 3, 16, 9)
    with pytest.raises(UsageError, match=r"\(3, 8, 9\) and \(3, 10, 9\).*--preprocess image") as caught:
        list(load_batches(dataset, [[0, 1]], num_workers=workers))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_can_be_read_are_told_from_the_others(photos: Path, workers: int) -> None:
    (photos / "class0" / "4.png").write_bytes(b"")
    (photos / "class1" / "9.png").write_bytes(b"no")
    samples = load_data(f"folder:{photos}")
    kept, errors = readable_positions(InputDataset(samples, Preprocessing()), num_workers=workers)
    left = [samples.sample_ids[int(position)].as_py() for position in kept]
    assert left == [i for i in samples.sample_ids.to_pylist() if i not in ("class0/4.png", "class1/9.png")]
    assert ["4.png" in errors[0], "9.png" in errors[1], len(errors)] == [True, True, 2]


def test_making_batches_draws_nothing_from_the_global_generator() -> None:
    dataset = InputDataset(digits(), Preprocessing())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(load_batches(dataset, BATCHES, num_workers=0))
    assert torch.equal(torch.get_rng_state(), before), "dropout would differ after a resume"


def test_a_users_tensors_of_any_shape_are_stacked(module: Callable[[str, str], None]) -> None:
    module(
        "vectors",
        "import torch, numpy as np\n"
        "class D:\n"
        "    targets = [0, 1, 0]\n"
        "    def __len__(self): return 3\n"
        "    def __getitem__(self, i): return np.full(5, i, np.float32), self.targets[i]\n"
        "def data(): return D()\n",
    )
    dataset = InputDataset(load_data("python:vectors:data"), Preprocessing())
    assert torch.equal(dataset.batch(np.array([2, 1])).inputs, torch.tensor([[2.0] * 5, [1.0] * 5]))
