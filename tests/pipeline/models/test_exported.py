import io
import logging
import pathlib
import zipfile

import pytest
import torch
from kdpipe.pipeline.models import create_model, load_model, set_eval, state_checksum
from kdpipe.pipeline.specs import Spec
from kdpipe.stores.errors import KdpipeError, UsageError
from torch import nn


def load(path, **options):
    spec = Spec("export", str(path), options)
    return load_model(spec, num_classes=5, in_channels=1).module


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    network = create_model("convnet_tiny", 5, 1)
    network(torch.randn(4, 1, 8, 8))  # running statistics other than the initial ones
    network.eval()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=batch)
    path = tmp_path_factory.mktemp("export") / "teacher.pt2"
    torch.export.save(program, path)
    return network, path


def rewritten(source, target, change):
    """Copy a .pt2 archive with the records that ``change(name, bytes)`` returns."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            for new_name, data in change(name, old.read(name)):
                new.writestr(new_name, data)
    return target


def test_a_program_gives_the_networks_logits_for_every_batch_size(exported):
    network, path = exported
    module = set_eval(load(path))
    assert state_checksum(module) == state_checksum(network)
    for batch in (1, 3, 7):
        images = torch.randn(batch, 1, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(module(images), network(images))


def test_the_loaded_spec_and_no_metadata(exported):
    loaded = load_model(Spec("export", str(exported[1])), num_classes=5, in_channels=1)
    assert loaded.spec == f"export:{exported[1]}"
    assert loaded.weights_metadata == {}
    assert loaded.torchvision_transforms is None


def test_set_eval_of_an_ordinary_module_and_of_one_without_modes(exported):
    module = nn.Dropout().train()
    assert set_eval(module) is module
    assert not module.training
    program = load(exported[1])
    assert set_eval(program) is program


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError, match="There is no exported program"):
        load(tmp_path / "none.pt2")


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "other zip", "no weights"])
def test_a_damaged_file(exported, tmp_path, damage, caplog):
    path, whole = tmp_path / "bad.pt2", exported[1].read_bytes()
    if damage == "other zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("hello.txt", "hello")
    elif damage == "no weights":
        rewritten(exported[1], path, lambda name, data: [] if "/weights/" in name else [(name, data)])
    else:
        contents = {"truncated": whole[: len(whole) // 2], "garbage": b"none" * 99, "empty": b""}
        path.write_bytes(contents[damage])
    with (
        caplog.at_level(logging.CRITICAL),
        pytest.raises(KdpipeError, match="cannot be read as an exported program") as caught,
    ):
        load(path)
    assert not isinstance(caught.value, UsageError)


def test_options_are_refused(exported):
    with pytest.raises(UsageError, match="Unknown option of 'export' 'weights'"):
        load(exported[1], weights="x.safetensors")


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(3)])
def test_a_program_in_training_mode_is_refused(tmp_path, layer):
    network = nn.Sequential(nn.Linear(3, 3), layer)
    for train in (True, False):
        torch.export.save(torch.export.export(network.train(train), (torch.zeros(2, 3),)), tmp_path / "p.pt2")
        if train:
            with pytest.raises(UsageError, match=r"exported in training mode.*Call model\.eval\(\)"):
                load(tmp_path / "p.pt2")
        else:
            assert load(tmp_path / "p.pt2")(torch.zeros(2, 3)).shape == (2, 3)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (pathlib.Path.touch, (self.target,))


def test_a_malicious_pickle_inside_is_refused_and_not_run(exported, tmp_path):
    target = tmp_path / "created"
    buffer = io.BytesIO()
    torch.save((Malicious(target),), buffer)
    path = rewritten(
        exported[1],
        tmp_path / "evil.pt2",
        lambda name, data: [(name, buffer.getvalue() if name.endswith("sample_inputs/model.pt") else data)],
    )
    with pytest.raises(KdpipeError, match="cannot be read as an exported program"):
        load(path)
    assert not target.exists()
    torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    assert target.exists()  # so the test could have seen it


def test_records_that_torch_would_unpickle_are_refused(exported, tmp_path):
    def add_opaque(name, data):
        folder = name.removesuffix("model_constants_config.json")
        return [(name, data)] if folder == name else [(name, data), (f"{folder}opaque_obj_0", b"x")]

    path = rewritten(exported[1], tmp_path / "opaque.pt2", add_opaque)
    with pytest.raises(UsageError, match="holds pickled objects"):
        load(path)
