"""What a weights file written by kdpipe says about itself: the metadata of ``student.safetensors``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import torch
from safetensors.torch import save
from torch import nn

from ..stores.files import replacing
from .views import Preprocessing

_KEY = "kdpipe"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The card of a trained network.

    Attributes:
        model: its spec, without weights.
        num_classes: C.
        classes: fingerprint of the class names, in order.
        preprocessing: from raw inputs to its inputs.
        store_id: the store it was distilled from, or None.
    """

    model: str
    num_classes: int
    classes: str
    preprocessing: Preprocessing
    store_id: str | None = None

    @classmethod
    def of_weights(cls, path: str) -> "ModelCard | None":
        """The card in a weights file; None where the file has none or cannot be read as safetensors."""
        file = Path(path).expanduser()
        if file.suffix != ".safetensors" or not file.is_file():
            return None
        try:
            with safetensors.safe_open(file, framework="pt") as weights:
                text = (weights.metadata() or {}).get(_KEY)
            return None if text is None else msgspec.json.decode(text, type=cls)
        except (safetensors.SafetensorError, OSError, msgspec.DecodeError):
            return None  # loading the weights will say what is wrong with the file

    def save(self, module: nn.Module, path: Path) -> None:
        """Write the module's state and this card, whole or not at all."""
        state: dict[str, Any] = {
            # cloned: safetensors refuses tensors that share memory, such as tied weights
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in module.state_dict().items()
        }
        with replacing(path) as temporary:
            # not save_file, which makes a file that only its owner may read
            temporary.write_bytes(save(state, metadata={_KEY: msgspec.json.encode(self).decode()}))
