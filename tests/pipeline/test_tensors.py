"""Inputs with names are what single tensors are: stacked, digested, called, and refused where they do not fit."""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kdpipe.pipeline.tensors import Inputs, as_inputs, call, each, num_elements, num_rows, shape_text, stack
from kdpipe.pipeline.views import Preprocessing, input_digest
from kdpipe.stores.errors import UsageError
from torch import Tensor, nn

NAMES = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=4, unique=True)
TOKENS = {"tokens": torch.arange(6).view(2, 3), "mask": torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])}


def random_inputs(names: list[str], count: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(count, 1 + i, 2, generator=generator) for i, name in enumerate(names)}


def equal(one: Inputs, other: Inputs) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@given(names=NAMES, count=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_batch_is_its_rows_stacked(names: list[str], count: int, seed: int) -> None:
    named = random_inputs(names, count, seed)
    for batch in (named, named[names[0]]):
        rows = [each(batch, lambda tensor, i=i: tensor[i]) for i in range(count)]
        assert equal(stack(rows), batch)
        assert num_rows(batch) == count
        assert num_elements(batch) == count * num_elements(rows[0])


@given(names=NAMES, seed=st.integers(0, 99))
def test_a_digest_of_named_tensors_is_that_of_sorted_lines(names: list[str], seed: int) -> None:
    inputs = {name: values[0] for name, values in random_inputs(names, 1, seed).items()}
    lines = "".join(f"{name}={input_digest(inputs[name])}\n" for name in sorted(names))
    expected = hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()
    assert input_digest(inputs) == f"blake2b-128:{expected}"
    assert input_digest(dict(reversed(inputs.items()))) == input_digest(inputs)
    for name in names:
        assert input_digest({**inputs, name: inputs[name] + 1}) != input_digest(inputs)
    assert input_digest({f"{name}x": value for name, value in inputs.items()}) != input_digest(inputs)


@pytest.mark.parametrize("raw", [np.arange(3), torch.arange(3), [0, 1, 2]], ids=["array", "tensor", "list"])
def test_what_a_data_set_may_give(raw: Any) -> None:
    assert equal(as_inputs(raw), torch.arange(3))
    assert equal(as_inputs({"tokens": raw, "length": 3}), {"tokens": torch.arange(3), "length": torch.tensor(3)})
    assert equal(Preprocessing().one({"tokens": raw}), {"tokens": torch.arange(3)})


@pytest.mark.parametrize("raw", ["a sentence", None, {"text": "a"}, {}, [[1], [1, 2]], np.array(["a"])], ids=str)
def test_what_no_network_takes_is_refused(raw: Any) -> None:
    with pytest.raises(UsageError, match="no input of a network"):
        Preprocessing().one(raw)


def test_what_is_no_image_is_not_prepared_as_one() -> None:
    with pytest.raises(UsageError, match=r"tensors by name \(mask, tokens\).*Leave --preprocess out"):
        Preprocessing(resize=8).one(TOKENS)
    with pytest.raises(UsageError, match=r"shape \(3,\), which are no images: crop, channels"):
        Preprocessing(crop=8, channels=3).one(torch.zeros(3))


def test_rows_that_differ_are_told_apart() -> None:
    with pytest.raises(ValueError, match=r"mask \(2,\), tokens \(3,\) and mask \(2,\), tokens \(4,\)"):
        stack([{"tokens": torch.zeros(n), "mask": torch.zeros(2)} for n in (3, 3, 4)])
    with pytest.raises(ValueError, match=r"a \(1,\) and b \(1,\)"):
        stack([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}])
    assert shape_text(torch.zeros(2, 3)) == "(2, 3)"


class ByKeyword(nn.Module):
    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return (tokens * mask).sum(1)


@pytest.mark.parametrize("compiled", [False, True])
def test_named_tensors_are_passed_by_keyword(compiled: bool) -> None:
    module: Any = torch.compile(ByKeyword(), backend="eager") if compiled else ByKeyword()
    assert call(module, TOKENS).tolist() == [0.0 + 1.0, 3.0]
    assert call(module, dict(reversed(TOKENS.items()))).tolist() == [1.0, 3.0]
    assert call(nn.Flatten(), torch.zeros(2, 3, 4)).shape == (2, 12)
