"""Weights: reading them from a file without running code, loading them strictly, proving which they are."""

import contextlib
import hashlib
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from ...stores.errors import KdpipeError, MismatchError, UsageError

_SUFFIXES = (".safetensors", ".pt", ".pth", ".pt2", ".bin")
_NESTED_KEYS = ("state_dict", "model")
_SHOWN_KEYS = 4

# Where the restricted unpickler's own words are in torch's message; the advice after the sentence is cut.
_UNPICKLER_SAYS = re.compile(r"WeightsUnpickler error:\s*(.*?)(?:\. Please use .*)?$", re.MULTILINE)

# What torch's restricted unpickler says when a file asks for a class or a function, not when it is damaged.
_ASKS_FOR_CODE = re.compile(r"\bglobal\b|call reduce|create new object|set state|TorchScript", re.IGNORECASE)


def is_weights_file(value: str) -> bool:
    """Whether the value of ``weights=`` names a file, and not one of torchvision's sets of weights."""
    return value.lower().endswith(_SUFFIXES) or Path(value).expanduser().is_file()


def load_weights(module: nn.Module, value: str, *, num_classes: int) -> dict[str, str]:
    """Load the file into the module, strictly, and return the file's metadata (empty but for safetensors).

    Args:
        module: the network; changed in place.
        value: the path, ``~`` allowed.
        num_classes: the classes that are needed, for the message when the file has others.

    Raises:
        UsageError: there is no such file, or reading it would need unrestricted pickle.
        MismatchError: the names or the shapes in the file are not the module's.
        KdpipeError: the file is damaged or holds no weights.
    """
    path = Path(value).expanduser()
    state, metadata = read_weights(path)
    _check_shapes(module, state, path, num_classes)
    result = module.load_state_dict(state, strict=False)
    problems = [
        f"{what}: {_first(keys)}"
        for what, keys in (("missing", result.missing_keys), ("unexpected", result.unexpected_keys))
        if keys
    ]
    if problems:
        raise MismatchError(
            f"The weights in {path} are not for this network ({'; '.join(problems)}). Name the network they "
            "were saved from."
        )
    return metadata


def read_weights(path: Path) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """The state dict in a file and the file's metadata. The file is data: nothing in it is run.

    Raises:
        UsageError: there is no such file, or reading it would need unrestricted pickle.
        KdpipeError: the file is damaged or holds no weights.
    """
    if not path.is_file():
        raise UsageError(f"There is no weights file {path}. Check the path after weights=.")
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path), {}


@contextlib.contextmanager
def restricted_unpickling() -> Iterator[None]:
    """Within it, ``torch.load`` refuses to run code, whatever its caller asks for.

    torchvision's downloads and torch.export.load call torch.load with ``weights_only=False`` and have no
    argument to change that; torch's own switch for it is an environment variable.
    """
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ[names[0]] = "1"
    try:
        yield
    finally:
        del os.environ[names[0]]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def state_checksum(module: nn.Module) -> str:
    """``sha256:<hex>`` over the names, types, shapes and bytes of the state dict, sorted by name.

    Raises:
        KdpipeError: the state dict holds something other than tensors, plain values and None.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            tensor = value.detach().cpu().contiguous()
            digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
            # Through uint8, because numpy has no bfloat16; flat, because a scalar cannot change its type.
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        elif value is None or isinstance(value, bool | int | float | str | bytes):
            digest.update(f"{name}\0{value!r}\0".encode())
        else:
            raise KdpipeError(
                f"The model's state '{name}' is a {type(value).__name__}, which has no checksum. "
                "Keep tensors or plain values in get_extra_state()."
            )
    return f"sha256:{digest.hexdigest()}"


def parameter_count(module: nn.Module) -> int:
    """The number of trainable and frozen parameters; buffers do not count."""
    return sum(parameter.numel() for parameter in module.parameters())


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise KdpipeError(
            f"The weights file {path} cannot be read as safetensors ({error}). It is damaged or incomplete: "
            "copy or download it again."
        ) from error


def _read_torch(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the zip reader, the unpickler and the tensor builder each raise their own
        if isinstance(error, pickle.UnpicklingError | RuntimeError) and _ASKS_FOR_CODE.search(str(error)):
            raise UsageError(
                f"The weights file {path} can only be opened by running code from it (unrestricted pickle), "
                "which kdpipe never does. Convert it where it was made: "
                "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')."
            ) from error
        raise KdpipeError(
            f"The weights file {path} cannot be read ({first_line(error)}). It is damaged, incomplete or not "
            "a file of torch.save: copy or download it again."
        ) from error
    for key in _NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not _is_state_dict(content):
        raise KdpipeError(
            f"The file {path} holds no weights: neither it nor an entry 'state_dict' or 'model' of it is a state "
            "dict. Save model.state_dict()."
        )
    return content  # as it is: torch keeps the layers' versions in an attribute of its ordered dict


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) for key in content)
        and any(isinstance(value, Tensor) for value in content.values())
    )


def _check_shapes(module: nn.Module, state: Mapping[str, Any], path: Path, num_classes: int) -> None:
    """Say in words what torch would say in shapes: other classes, other channels, another network."""
    own = {name: tuple(value.shape) for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    pairs = {
        name: (tuple(value.shape), own[name])
        for name, value in state.items()
        if isinstance(value, Tensor) and name in own and tuple(value.shape) != own[name]
    }
    if not pairs:
        return
    name, (stored, needed) = max(pairs.items(), key=lambda item: len(item[1][1]))  # a weight, not its bias
    if all(_differs_only_at(0, a, b) and b[0] == num_classes for a, b in pairs.values()):
        raise MismatchError(
            f"The weights in {path} have {stored[0]} classes ({name} is {stored}), {num_classes} are needed: "
            "use weights trained on these classes, or give the data all the classes of the weights: "
            "folder:DIR,classes=FILE."
        )
    if len(pairs) == 1 and len(stored) == 4 and _differs_only_at(1, stored, needed):
        raise MismatchError(
            f"The weights in {path} are for images of {stored[1]} channels ({name} is {stored}), the data "
            f"has {needed[1]}: add --preprocess ...,channels={stored[1]}, or use other weights."
        )
    shown = _first([f"{name} is {a}, not {b}" for name, (a, b) in pairs.items()])
    raise MismatchError(
        f"The weights in {path} are not for this network: {shown}. Name the network they were saved from."
    )


def _differs_only_at(axis: int, a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return len(a) == len(b) and {i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y} == {axis}


def _first(items: list[str]) -> str:
    more = len(items) - _SHOWN_KEYS
    return ", ".join(items[:_SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")


def first_line(error: Exception) -> str:
    """What an exception says, in one line: torch's go on for pages, and advise to lift its restrictions."""
    text = str(error)
    refused = _UNPICKLER_SAYS.search(text)
    line = refused.group(1) if refused else next(iter(text.splitlines()), "")
    return line.strip().rstrip(".") or type(error).__name__
