"""A weights file tells what it was trained on; a foreign or broken one tells nothing."""

from pathlib import Path

import pytest
import torch
from kdpipe.pipeline.model_card import ModelCard
from kdpipe.pipeline.views import Preprocessing
from safetensors.torch import load_file, save_file
from torch import nn

CARD = ModelCard(
    model="kdpipe:convnet_tiny,width=8",
    num_classes=3,
    classes="sha256:0",
    preprocessing=Preprocessing(resize=9, channels=3, mean=(0.1, 0.2, 0.3), std=(0.5,)),
    store_id="abc",
)


class Tied(nn.Module):
    """Two layers share a weight, and a buffer is a view of another's memory, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("turned", self.first.weight.detach().t())


@pytest.mark.parametrize(
    "module", [nn.BatchNorm2d(4), nn.Conv2d(1, 2, 3).to(memory_format=torch.channels_last), Tied()]
)
def test_card_and_weights_are_read_back(tmp_path: Path, module: nn.Module) -> None:
    path = tmp_path / "deep" / "student.safetensors"
    CARD.save(module, path)
    assert ModelCard.of_weights(str(path)) == CARD
    state = load_file(path)
    assert state.keys() == module.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert [p.name for p in path.parent.iterdir()] == ["student.safetensors"], "no temporary file is left"


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "student.safetensors"
    CARD.save(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kdpipe.pipeline.model_card.save", full)
    with pytest.raises(OSError, match="No space"):
        CARD.save(nn.Linear(2, 2), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_the_home_folder_may_be_written_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    CARD.save(nn.Linear(2, 2), tmp_path / "s.safetensors")
    assert ModelCard.of_weights("~/s.safetensors") == CARD


def test_weights_that_are_not_ours_have_no_card(tmp_path: Path) -> None:
    state = {"w": torch.zeros(2)}
    for number, metadata in enumerate([None, {"format": "pt"}, {"kdpipe": "not json"}, {"kdpipe": '{"model": 3}'}]):
        path = tmp_path / f"{number}.safetensors"
        save_file(state, path, metadata=metadata)
        assert ModelCard.of_weights(str(path)) is None
    (tmp_path / "garbage.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "weights.pt").write_bytes(b"PK")
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("garbage.safetensors", "empty.safetensors", "weights.pt", "folder.safetensors", "absent.safetensors"):
        assert ModelCard.of_weights(str(tmp_path / name)) is None
    assert ModelCard.of_weights("") is None
    assert ModelCard.of_weights("IMAGENET1K_V2") is None
