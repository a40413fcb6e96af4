"""Arrays and lists in files: .npy, .npz, .safetensors and torch's .pt, read without running any code in them.

Arrays are mapped where the format allows: .npy, .safetensors, and what torch saved since version 1.6.
"""

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import safetensors

from ...stores.errors import KdpipeError, UsageError, unknown

_SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".safetensors")


class Rows(Protocol):
    """A two-dimensional array, of which rows are read when they are asked for."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, C)."""
        ...

    def __getitem__(self, rows: slice, /) -> Any: ...


def read_arrays(path: Path) -> Mapping[str, Any]:
    """The arrays in a file by name: NumPy arrays, torch tensors, lists, or slices of a safetensors file.

    A file that holds one array without a name gives it as ``array``.

    Raises:
        UsageError: there is no such file, or it is of another kind.
        KdpipeError: it is damaged, or reading it would need unrestricted pickle.
    """
    if not path.is_file():
        raise UsageError(f"There is no file {path}. Check the path.")
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"{path} is none of {', '.join(_SUFFIXES)}.")
    try:
        if suffix == ".npy":
            return {"array": np.load(path, mmap_mode="r", allow_pickle=False)}
        if suffix == ".npz":
            return np.load(path, allow_pickle=False)
        return _safetensors(path) if suffix == ".safetensors" else _torch(path)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise KdpipeError(f"{path} cannot be read ({str(error).rstrip('.')}). Objects are never unpickled.") from None


def member(arrays: Mapping[str, Any], name: str, path: Path) -> Any:
    """An array of a file.

    Raises:
        UsageError: it has none of that name (the nearest is suggested).
        KdpipeError: it holds Python objects, or is damaged.
    """
    if name not in arrays:
        raise unknown(f"array in {path}", name, list(arrays))
    try:
        return arrays[name]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise KdpipeError(
            f"'{name}' in {path} cannot be read ({str(error).rstrip('.')}). Save it without pickle."
        ) from None


def as_float32(rows: Any) -> np.ndarray:
    """Rows of any of these kinds as a float32 array of their own."""
    if hasattr(rows, "detach"):  # a torch tensor; bfloat16 has no NumPy type
        return rows.detach().float().cpu().numpy()
    return np.asarray(rows).astype(np.float32)


def _torch(path: Path) -> Mapping[str, Any]:
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, AttributeError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise KdpipeError(
            f"{path} cannot be read without running code ({reason}). Save tensors, lists and dicts of them, with "
            "torch.save or safetensors."
        ) from None
    return found if isinstance(found, dict) else {"array": found}


def _safetensors(path: Path) -> Mapping[str, Any]:
    file = safetensors.safe_open(path, framework="pt")  # NumPy has no bfloat16
    return {name: _Slice(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118 (it is no dict)


class _Slice:
    """An array in a safetensors file, of which rows are read when they are asked for."""

    def __init__(self, part: Any) -> None:
        self._part = part
        self.shape = tuple(part.get_shape())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Any:
        return self._part[rows]
