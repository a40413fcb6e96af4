import copy
import os
import pickle
from pathlib import Path

import pytest
import torch
from kdpipe.pipeline.models import create_model, parameter_count, state_checksum
from kdpipe.pipeline.models.weights import (
    is_weights_file,
    load_weights,
    read_weights,
    restricted_unpickling,
)
from kdpipe.stores.errors import KdpipeError, MismatchError, UsageError
from safetensors.torch import save_file
from torch import nn


class Malicious:
    """Unpickling this creates a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def network(seed=0, classes=5, channels=1):
    torch.manual_seed(seed)
    return create_model("convnet_tiny", classes, channels)


def saved_as(kind, path, state):
    if kind == "safetensors":
        save_file(state, path / "w.safetensors", {"classes": "5"})
        return path / "w.safetensors"
    content = {"plain": state, "state_dict": {"state_dict": state, "epoch": 3}, "model": {"model": state}}[kind]
    torch.save(content, path / "w.pth")
    return path / "w.pth"


@pytest.mark.parametrize("kind", ["safetensors", "plain", "state_dict", "model"])
def test_weights_come_back_bit_by_bit(tmp_path, kind):
    source, target = network(0), network(1)
    assert state_checksum(source) != state_checksum(target)
    metadata = load_weights(target, str(saved_as(kind, tmp_path, source.state_dict())), num_classes=5)
    assert state_checksum(source) == state_checksum(target)
    assert metadata == ({"classes": "5"} if kind == "safetensors" else {})


def test_safetensors_without_metadata(tmp_path):
    save_file(network().state_dict(), tmp_path / "w.safetensors")
    assert load_weights(network(1), str(tmp_path / "w.safetensors"), num_classes=5) == {}


def test_the_old_format_of_torch_save(tmp_path):
    source, target = network(0), network(1)
    torch.save(source.state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    load_weights(target, str(tmp_path / "w.pt"), num_classes=5)
    assert state_checksum(source) == state_checksum(target)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved_as("plain", tmp_path, network().state_dict())
    assert is_weights_file("~/w.pth")
    load_weights(network(1), "~/w.pth", num_classes=5)


def test_the_versions_of_layers_survive(tmp_path):
    state, _ = read_weights(saved_as("model", tmp_path, network().state_dict()))
    assert vars(state)["_metadata"]["features.1"] == {"version": 2}


def test_which_values_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("IMAGENET1K_V9").touch()
    assert is_weights_file("IMAGENET1K_V9")
    assert not is_weights_file("IMAGENET1K_V1")
    assert all(is_weights_file(f"missing.{end}") for end in ("safetensors", "pt", "pth", "pt2", "bin", "PTH"))


@pytest.mark.parametrize("kind", ["safetensors", "plain"])
def test_other_classes_are_named(tmp_path, kind):
    path = saved_as(kind, tmp_path, network(classes=10).state_dict())
    with pytest.raises(MismatchError) as caught:
        load_weights(network(classes=5), str(path), num_classes=5)
    assert f"The weights in {path} have 10 classes (fc.weight is (10, 64)), 5 are needed:" in str(caught.value)


def test_other_channels_are_named(tmp_path):
    path = saved_as("plain", tmp_path, network(channels=3).state_dict())
    with pytest.raises(MismatchError, match=r"images of 3 channels \(features\.0\.weight.*data has 1: add"):
        load_weights(network(channels=1), str(path), num_classes=5)


def test_another_network_of_the_same_names_is_refused(tmp_path):
    path = saved_as("plain", tmp_path, nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)).state_dict())
    with pytest.raises(MismatchError, match=r"not for this network: 0\.weight is \(4, 3\), not \(9, 3\)"):
        load_weights(nn.Sequential(nn.Linear(3, 9), nn.Linear(9, 5)), str(path), num_classes=5)


def test_missing_and_unexpected_names_are_listed_but_not_all(tmp_path):
    state = network().state_dict()
    renamed = {f"backbone.{key}": value for key, value in state.items()}
    with pytest.raises(MismatchError) as caught:
        load_weights(network(), str(saved_as("plain", tmp_path, renamed)), num_classes=5)
    assert "missing: features.0.weight, features.1.weight" in str(caught.value)
    assert "unexpected: backbone.features.0.weight" in str(caught.value)
    assert f"and {len(state) - 4} more). Name" in str(caught.value)
    assert "and 13 more; unexpected" in str(caught.value)  # torch tolerates missing batch counters here


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_one_name_too_few_or_too_many_is_refused(tmp_path, change):
    state = dict(network().state_dict())
    if change == "missing":
        del state["fc.bias"]
    else:
        state["fc.extra"] = torch.zeros(1)
    with pytest.raises(MismatchError, match=f"{change}: fc"):
        load_weights(network(), str(saved_as("plain", tmp_path, state)), num_classes=5)


@pytest.mark.parametrize("name", ["none.safetensors", "none.pth"])
def test_a_missing_file(tmp_path, name):
    with pytest.raises(UsageError, match=rf"There is no weights file .*{name}"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("kind", ["safetensors", "plain"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_file(tmp_path, kind, damage):
    path = saved_as(kind, tmp_path, network().state_dict())
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "garbage": b"no weights" * 99, "empty": b""}[damage])
    with pytest.raises(KdpipeError, match=r"cannot be read.*copy or download it again") as caught:
        read_weights(path)
    assert not isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)
    assert "trust" not in str(caught.value)  # torch's advice to lift the restriction is not passed on


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"state_dict": {"a": 1}}, torch.zeros(3)])
def test_a_file_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(KdpipeError, match="holds no weights"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["torch.save", "old torch.save", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, how):
    target, path = tmp_path / "created", tmp_path / "w.pth"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(target)))
    else:
        torch.save({"w": Malicious(target)}, path, _use_new_zipfile_serialization=how == "torch.save")
    with pytest.raises(KdpipeError) as caught:
        read_weights(path)
    assert not target.exists()
    if how != "pickle":  # a bare pickle is no file of torch.save at all
        assert isinstance(caught.value, UsageError)
        assert "never does. Convert it" in str(caught.value)
    pickle.loads(pickle.dumps(Malicious(target)))
    assert target.exists()  # so the test could have seen it


def test_a_whole_pickled_network_is_refused_with_the_way_out(tmp_path):
    torch.save(network(), tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"unrestricted pickle.*safetensors\.torch\.save_file"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_file_is_refused_with_the_way_out(tmp_path):
    torch.jit.save(torch.jit.trace(network().eval(), torch.zeros(1, 1, 8, 8)), tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"safetensors\.torch\.save_file"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("before", [{}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}])
def test_restricted_unpickling_overrules_the_caller_and_restores_the_environment(tmp_path, monkeypatch, before):
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    torch.save({"w": Malicious(tmp_path / "created")}, tmp_path / "w.pth")
    with pytest.raises(pickle.UnpicklingError), restricted_unpickling():
        torch.load(tmp_path / "w.pth", weights_only=False)
    assert not (tmp_path / "created").exists()
    assert {name: os.environ[name] for name in names if name in os.environ} == before


def test_the_checksum_is_of_the_state_and_nothing_else():
    first = network()
    checksum = state_checksum(first)
    assert checksum.startswith("sha256:")
    assert len(checksum) == len("sha256:") + 64
    assert state_checksum(first.eval().requires_grad_(False)) == checksum
    assert state_checksum(copy.deepcopy(first)) == checksum
    assert state_checksum(copy.deepcopy(first).to(memory_format=torch.channels_last)) == checksum


def test_the_checksum_sees_a_bit_a_buffer_a_type_a_shape_and_a_name():
    base = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))

    def changed(change):
        other = copy.deepcopy(base)
        change(other)
        return state_checksum(other)

    def transpose(m):
        m[1].weight = nn.Parameter(m[1].weight.detach().reshape(4, 2))

    def swap_names(m):
        m.register_module("2", m._modules.pop("1"))

    seen = {
        state_checksum(base),
        changed(lambda m: m[1].weight.data[0, 0].copy_(torch.nextafter(m[1].weight[0, 0], torch.tensor(9.0)))),
        changed(lambda m: m[0].running_mean.add_(1e-6)),
        changed(lambda m: m[0].num_batches_tracked.add_(1)),
        changed(lambda m: m.double()),
        changed(lambda m: m.bfloat16()),
        changed(transpose),
        changed(swap_names),
    }
    assert len(seen) == 8


def test_the_checksum_does_not_depend_on_the_order_of_definition():
    def build(names):
        module = nn.Module()
        for name in names:
            module.register_buffer(name, torch.full((3,), float(ord(name))))
        return module

    assert state_checksum(build("ab")) == state_checksum(build("ba"))


def test_the_checksum_takes_plain_extra_state_and_refuses_objects():
    class Extra(nn.Module):
        def __init__(self, extra):
            super().__init__()
            self.extra = extra

        def get_extra_state(self):
            return self.extra

    assert state_checksum(Extra(1)) != state_checksum(Extra(2))
    with pytest.raises(KdpipeError, match=r"'_extra_state' is a object"):
        state_checksum(Extra(object()))


def test_parameters_count_frozen_ones_and_no_buffers():
    layer = nn.BatchNorm1d(4)
    assert parameter_count(layer) == 8
    assert parameter_count(layer.requires_grad_(False)) == 8


def test_the_checksum_tells_types_of_equal_bytes_apart_and_reads_strided_tensors():
    def checksum(tensor):
        module = nn.Module()
        module.register_buffer("x", tensor)
        return state_checksum(module)

    assert checksum(torch.zeros(3)) != checksum(torch.zeros(3, dtype=torch.int32))
    assert checksum(torch.arange(6.0)[::2]) == checksum(torch.tensor([0.0, 2.0, 4.0]))
