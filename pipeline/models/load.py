"""Model specs: from ``kdpipe:resnet8x4,weights=FILE`` and its like to a network.

    kdpipe:NAME                      our own small networks
    torchvision:NAME                 torchvision's classification networks
    timm:NAME                        timm's networks
    python:package.module:factory    a function of the user's that returns a network
    export:FILE.pt2                  a program saved by torch.export.save; teachers only
    onnx:FILE                        an ONNX file, run by onnxruntime; teachers only

The first four take ``weights=FILE``; torchvision also takes the name of one of its sets of weights, and timm
``pretrained=true``.
"""

import contextlib
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ...stores.errors import KdpipeError, UsageError, unknown
from ..factories import call_factory, import_attribute, named_parameters
from ..specs import Spec
from .exported import load_exported
from .onnx import OnnxOptions, load_onnx
from .registry import create_model
from .timm import TimmOptions, load_timm
from .weights import first_line, is_weights_file, load_weights, restricted_unpickling

_CPU = torch.device("cpu")
_TEACHERS_ONLY = {"export": "an exported program", "onnx": "an ONNX file"}


@dataclass(frozen=True)
class LoadedModel:
    """A network, and what its spec says about it.

    Attributes:
        module: maps (B, C, H, W) to raw logits (B, number of classes).
        spec: the spec it was loaded from, as text.
        weights_metadata: the metadata of the safetensors file its weights came from, else empty.
        torchvision_transforms: the preprocessing that torchvision publishes with these weights, else None.
        timm_config: timm's data configuration for a network of timm, else None.
    """

    module: nn.Module
    spec: str
    weights_metadata: dict[str, str] = field(default_factory=dict)
    torchvision_transforms: Callable[..., Any] | None = None
    timm_config: dict[str, Any] | None = None


@dataclass(frozen=True)
class _WeightsOption:
    weights: str | None = None


@dataclass(frozen=True)
class _NoOptions:
    pass


def load_model(
    spec: Spec,
    *,
    num_classes: int,
    in_channels: int,
    student: bool = False,
    device: torch.device = _CPU,
) -> LoadedModel:
    """Build the network that a spec names and load its weights.

    Fresh weights come from torch's global random generator: seed it first. A network with torchvision's own
    weights, and an exported program, keep the number of classes they have; whoever runs it checks that.

    Args:
        spec: the parsed model spec.
        num_classes: the classes of the data.
        in_channels: the channels of the images.
        student: the network is to be trained.
        device: where an ONNX file will run; other networks come on the CPU.

    Raises:
        UsageError: the spec names something unknown, a file that is missing or unsafe to open, or a student that
            cannot be trained.
        MismatchError: the weights are for another network or another number of classes.
        KdpipeError: a file is damaged, a download failed, or the user's factory raised an exception.
    """
    loaders = {
        "kdpipe": _load_own,
        "torchvision": _load_torchvision,
        "python": _load_python,
        "export": _load_export,
        "onnx": lambda spec, *_: LoadedModel(load_onnx(spec.location, spec.into(OnnxOptions), device), str(spec)),
        "timm": functools.partial(_load_timm, student=student),
    }
    if spec.name not in loaders and not spec.location:
        raise UsageError(
            f"The model spec '{spec}' has no scheme. Write SCHEME:{spec}, with one of {', '.join(loaders)}."
        )
    if spec.name not in loaders:
        raise unknown("model scheme", spec.name, loaders)
    if not spec.location:
        raise UsageError(f"The model spec '{spec}' names no model. Write {spec.name}:NAME.")
    if student and spec.name in _TEACHERS_ONLY:
        raise UsageError(
            f"The student '{spec}' cannot be trained: {_TEACHERS_ONLY[spec.name]} can only be run. Give its network as "
            "kdpipe:, torchvision:, timm: or python:."
        )
    return loaders[spec.name](spec, num_classes, in_channels)


def _load_own(spec: Spec, num_classes: int, in_channels: int) -> LoadedModel:
    weights = spec.into(_WeightsOption).weights
    module = create_model(spec.location, num_classes, in_channels)
    metadata = {} if weights is None else load_weights(module, weights, num_classes=num_classes)
    return LoadedModel(module, str(spec), metadata)


def _load_torchvision(spec: Spec, num_classes: int, in_channels: int) -> LoadedModel:
    from torchvision import models  # takes a second to import: only where it is asked for

    weights = spec.into(_WeightsOption).weights
    names = models.list_models(module=models)
    if spec.location not in names:
        raise unknown("torchvision model", spec.location, names)
    if in_channels != 3:
        raise UsageError(
            f"torchvision's networks take 3 channels, the images have {in_channels}. Add --preprocess ...,channels=3."
        )
    if weights is not None and not is_weights_file(weights):
        return _load_torchvision_weights(spec, weights)
    module = models.get_model(spec.location, num_classes=num_classes)
    metadata = {} if weights is None else load_weights(module, weights, num_classes=num_classes)
    return LoadedModel(module, str(spec), metadata)


def _load_torchvision_weights(spec: Spec, name: str) -> LoadedModel:
    """The network with its own head and one of the sets of weights that torchvision publishes for it."""
    from torchvision import models

    known = models.get_model_weights(spec.location)
    member = name.removeprefix(f"{known.__name__}.")
    if member not in known.__members__:
        raise unknown(f"weights of {spec.location}", name, known.__members__)
    weights = known[member]
    try:
        # stdout is for results: downloads are announced on stderr
        with restricted_unpickling(), contextlib.redirect_stdout(sys.stderr):
            module = models.get_model(spec.location, weights=weights)
    except Exception as error:  # the network, the disk, the checksum or the file itself
        raise KdpipeError(
            f"The weights {known.__name__}.{member} cannot be loaded ({first_line(error)}). Download "
            f"{weights.url} yourself and pass weights=FILE."
        ) from error
    return LoadedModel(module, str(spec), {}, weights.transforms)


def _load_timm(spec: Spec, num_classes: int, in_channels: int, *, student: bool) -> LoadedModel:
    options = spec.into(TimmOptions)
    module, metadata, config = load_timm(
        spec.location, options, num_classes=num_classes, in_channels=in_channels, student=student
    )
    return LoadedModel(module, str(spec), metadata, timm_config=config)


def _load_python(spec: Spec, num_classes: int, in_channels: int) -> LoadedModel:
    weights, arguments = None, spec
    if "weights" not in named_parameters(import_attribute(spec.location)):
        taken, arguments = spec.take("weights")
        weights = taken.options.get("weights")
    offered = {"num_classes": num_classes, "in_channels": in_channels}
    module = call_factory(spec.location, arguments.options, offered, arguments.beside)
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"The factory {spec.location} returned a {type(module).__name__}, not a torch.nn.Module. Return "
            "the network itself."
        )
    if any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        raise UsageError(
            f"The factory {spec.location} returned a network with lazy layers, whose weights do not exist "
            "yet. Give every layer its sizes, or run one batch through it in the factory."
        )
    metadata = {} if weights is None else load_weights(module, weights, num_classes=num_classes)
    return LoadedModel(module, str(spec), metadata)


def _load_export(spec: Spec, num_classes: int, in_channels: int) -> LoadedModel:  # noqa: ARG001
    spec.into(_NoOptions)  # an exported program carries its weights: any option is a mistake
    return LoadedModel(load_exported(spec.location), str(spec))
