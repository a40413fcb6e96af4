"""The proof of alignment: data that fits is taken in any order, and each misfit is refused with its own cause."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from kdpipe.pipeline import ExtractConfig, alignment, extract
from kdpipe.pipeline.alignment import check_alignment
from kdpipe.pipeline.data import ArrayItems, Samples, load_data
from kdpipe.pipeline.inputs import InputDataset
from kdpipe.pipeline.views import Preprocessing
from kdpipe.stores import MismatchError, Store, open_store

TEACHER = """
import torch
class T(torch.nn.Module):
    preprocessing = "image,mean=0.5,std=0.25"
    def forward(self, x): return x.flatten(1)[:, 20:30]
def teacher(): return T()
"""
NUM = 250


def samples_of(**changes: object) -> Samples:
    return dataclasses.replace(load_data("digits").select(np.arange(NUM)), **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the first digits, in 4 chunks."""
    root = tmp_path_factory.mktemp("alignment")
    (root / "flat_teacher.py").write_text(TEACHER)
    (root / "first_digits.py").write_text(
        "from sklearn.datasets import load_digits\nimport torch\n"
        "class D:\n"
        "    def __init__(self):\n"
        "        bunch = load_digits()\n"
        "        self.targets = bunch.target[:250]\n"
        "        self.images = torch.from_numpy((bunch.images[:250] * (255 / 16)).round().astype('uint8'))[:, None]\n"
        "        self.sample_ids = [f'digits/{i}' for i in range(250)]\n"
        "    def __len__(self): return 250\n"
        "    def __getitem__(self, i): return self.images[i], int(self.targets[i])\n"
        "def data(): return D()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.syspath_prepend(root)
        config = {"data": "python:first_digits:data", "teacher": "python:flat_teacher:teacher", "chunk_rows": 64}
        extract(ExtractConfig(**config, out=root / "d.kd"))  # pyright: ignore[reportArgumentType]
    return root / "d.kd"


@pytest.fixture
def check(made: Path) -> Callable[..., None]:
    """Check a data set against the store, seen through the store's preprocessing or another."""

    def run(samples: Samples, **changes: object) -> None:
        store: Store = open_store(made)
        preprocessing = Preprocessing.from_dict({**store.manifest.preprocessing, **changes})
        joined = store.join(samples, samples.sample_ids)  # pyright: ignore[reportArgumentType]
        check_alignment(store, InputDataset(samples, preprocessing), joined)

    return run


def with_images(change: Callable[[np.ndarray], np.ndarray]) -> ArrayItems:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)
    return ArrayItems(change(images))


def test_the_same_data_fits(check: Callable[..., None]) -> None:
    check(samples_of())


def test_shuffled_shortened_and_longer_data_fit(check: Callable[..., None]) -> None:
    order = np.random.default_rng(0).permutation(NUM)
    check(samples_of().select(order))
    check(samples_of().select(order[:90]))
    check(load_data("digits"))
    check(load_data("digits,split=train"))


def test_relabelled_data_are_refused_with_row_and_id(check: Callable[..., None]) -> None:
    labels = samples_of().labels.copy()
    labels[17] = (labels[17] + 1) % 10
    shuffled = samples_of(labels=labels).select(np.arange(NUM)[::-1])
    message = (
        rf"1 of {NUM} samples have another label.*rows 17; 'digits/17' is {labels[17]} here, {labels[17] - 1} there"
    )
    with pytest.raises(MismatchError, match=message):
        check(shuffled)


def test_ids_of_another_order_are_refused(check: Callable[..., None]) -> None:
    ids = samples_of().sample_ids.to_pylist()
    with pytest.raises(MismatchError, match=r"another label.*ids of another order"):
        check(samples_of(sample_ids=pa.array(ids[1:] + ids[:1])))


def test_classes_in_another_order_are_told_from_other_classes(check: Callable[..., None]) -> None:
    names = tuple("0123456798")
    with pytest.raises(MismatchError, match=r"same in another order \(class 8 is '8' in the store, '9' in the data\)"):
        check(samples_of(class_names=names))
    with pytest.raises(MismatchError, match=r"only in the store: \['9'\], only in the data: \['nine'\]"):
        check(samples_of(class_names=(*"012345678", "nine")))
    with pytest.raises(MismatchError, match=r"10 in the store, 11 in the data; only in the store: none.*\['ten'\]"):
        check(samples_of(class_names=(*"0123456789", "ten")))


def test_another_preprocessing_is_refused_field_by_field(check: Callable[..., None]) -> None:
    with pytest.raises(MismatchError, match=r": mean is \(0\.5,\) there, \(0\.4,\) here\. Leave --preprocess out"):
        check(samples_of(), mean=[0.4])
    with pytest.raises(MismatchError, match=r"resize is None there, 9 here; std is \(0\.25,\) there, \(0\.5,\) here"):
        check(samples_of(), resize=9, std=[0.5])


def test_changed_pixels_are_refused(check: Callable[..., None]) -> None:
    darker = with_images(lambda images: images // 2 * 2 + 1)
    with pytest.raises(MismatchError, match=r"(\d+) of \1 recomputed inputs .*re-encoded since"):
        check(samples_of(items=darker))


def test_another_version_of_the_libraries_is_named_as_the_cause(
    check: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdpipe.pipeline.alignment.version", lambda name: "9.9")
    check(samples_of())
    with pytest.raises(MismatchError, match=r"torchvision .* then, 9\.9 now"):
        check(samples_of(items=with_images(lambda images: 255 - images)))


def test_contents_swapped_under_the_right_ids_are_refused(check: Callable[..., None]) -> None:
    """Images moved within each class: ids and labels agree, some inputs do not."""
    indices, labels = samples_of().indices.copy(), samples_of().labels
    for class_id in range(5):
        indices[labels == class_id] = np.roll(indices[labels == class_id], 1)
    with pytest.raises(MismatchError, match=r"(\d+) of 64 recomputed inputs .*another order of the files' content"):
        check(samples_of(indices=indices))


def test_a_single_changed_image_is_found_where_its_digest_is_kept(made: Path, check: Callable[..., None]) -> None:
    kept = [digest.row for chunk in range(4) for digest in open_store(made).receipt(chunk).inputs]
    assert len(kept) == 64
    for row in kept[::13]:
        indices = samples_of().indices.copy()
        indices[row] = 1000
        with pytest.raises(MismatchError, match=rf"1 of 64 recomputed inputs .*\(rows {row} of"):
            check(samples_of(indices=indices))


def test_data_without_any_provable_row_are_warned_about(
    made: Path, check: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    kept = {digest.row for chunk in range(4) for digest in open_store(made).receipt(chunk).inputs}
    others = samples_of().select(np.array([row for row in range(NUM) if row not in kept]))
    with caplog.at_level(logging.WARNING):
        check(samples_of())
        assert not caplog.records
        check(others)
    assert "the images themselves were not compared" in caplog.text


def test_a_large_store_costs_no_more_than_a_few_inputs(
    check: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    original = Preprocessing.one

    def counting(self: Preprocessing, raw: torch.Tensor) -> torch.Tensor:
        computed.append(1)
        return original(self, raw)

    monkeypatch.setattr(Preprocessing, "one", counting)
    monkeypatch.setattr(alignment, "CHECKED_INPUTS", 2)
    check(samples_of())
    assert len(computed) == 2
