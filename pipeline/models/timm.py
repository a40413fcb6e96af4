"""timm's networks (extra ``timm``), for teachers and students."""

import contextlib
import difflib
import sys
from dataclasses import dataclass
from typing import Any

from torch import nn

from ...stores.errors import KdpipeError, UsageError, missing_extra
from .weights import first_line, load_weights, restricted_unpickling


@dataclass(frozen=True, kw_only=True)
class TimmOptions:
    """Options of ``timm:NAME``.

    Attributes:
        pretrained: download the weights that timm publishes. A teacher keeps their classes, a student gets a new last
            layer.
        weights: a file with weights instead.
        img_size: of the images, in pixels, for networks that are built for one size.
    """

    pretrained: bool = False
    weights: str | None = None
    img_size: int | None = None


def load_timm(
    name: str, options: TimmOptions, *, num_classes: int, in_channels: int, student: bool
) -> tuple[nn.Module, dict[str, str], dict[str, Any]]:
    """The network, the metadata of its weights file, and timm's data configuration for it.

    Args:
        name: as timm has it, with or without a tag: ``resnet50``, ``resnet50.a1_in1k``.
        options: where the weights come from.
        num_classes: of the data; pretrained teachers have their own.
        in_channels: of the images.
        student: the network is to be trained.

    Raises:
        UsageError: timm has no such network, or it does not take these options.
        MismatchError: the weights file is for another network or other classes.
        KdpipeError: the weights cannot be downloaded or read.
        MissingExtraError: timm is not installed.
    """
    try:
        import timm  # takes seconds to import: only where it is asked for
        from timm.data.config import resolve_model_data_config
    except ImportError:
        raise missing_extra("timm", f"The network timm:{name}") from None
    names = {*timm.list_models(), *timm.list_pretrained()}
    if name not in names:
        near = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.5)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"timm has no network '{name}'.{hint} timm.list_models() lists all {len(timm.list_models())}.")
    if options.pretrained and options.weights is not None:
        raise UsageError(f"timm:{name} has weights={options.weights} and pretrained=true. Give one of them.")
    arguments: dict[str, Any] = {"in_chans": in_channels, "pretrained": options.pretrained}
    if student or not options.pretrained:
        arguments["num_classes"] = num_classes
    if options.img_size is not None:
        arguments["img_size"] = options.img_size
    module = _create(name, arguments)
    metadata = {} if options.weights is None else load_weights(module, options.weights, num_classes=num_classes)
    return module, metadata, resolve_model_data_config(module)


def _create(name: str, arguments: dict[str, Any]) -> nn.Module:
    import timm

    try:
        # stdout is for results: downloads are announced on stderr
        with restricted_unpickling(), contextlib.redirect_stdout(sys.stderr):
            return timm.create_model(name, **arguments)
    except Exception as error:  # the network, the disk, the hub, the file, or the network's own constructor
        if not arguments["pretrained"]:
            given = ", ".join(f"{key}={value}" for key, value in arguments.items())
            raise UsageError(f"timm:{name} cannot be built with {given}: {first_line(error)}.") from error
        source = getattr(timm.models.get_pretrained_cfg(name), "hf_hub_id", None) or "the hub"
        raise KdpipeError(
            f"The weights of timm:{name} cannot be loaded from {source} ({first_line(error)}). Download them yourself "
            "and pass weights=FILE."
        ) from error
