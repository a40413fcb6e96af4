"""The teacher: a network in evaluation mode with the preprocessing it was trained with."""

import hashlib
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..stores.errors import BadLogitsError, DeviceMemoryError, KdpipeError, MismatchError, UsageError
from ..stores.manifest import TeacherInfo, fingerprint
from .data import Samples
from .hardware import autocast
from .model_card import ModelCard
from .models import LoadedModel, OnnxNetwork, load_model, parameter_count, set_eval, state_checksum
from .specs import Spec
from .tensors import Inputs, call, each, num_rows, unfit
from .views import Preprocessing


@dataclass(frozen=True)
class Teacher:
    """A teacher, ready to run.

    Attributes:
        module: from inputs to logits (B, C), in evaluation mode, on ``device``.
        preprocessing: from raw inputs to its inputs.
        info: what a manifest says of it.
        device: where it is.
        precision: "fp32", "bf16" or "fp16".
        runtime: what runs it.
    """

    module: nn.Module
    preprocessing: Preprocessing
    info: TeacherInfo
    device: torch.device
    precision: str
    runtime: Literal["torch", "compile", "onnx"] = "torch"

    @property
    def pass_name(self) -> str:
        """The precision as a manifest records it: ``fp32``, ``fp32/onnx`` and so on."""
        return self.precision if self.runtime == "torch" else f"{self.precision}/{self.runtime}"

    @torch.inference_mode()
    def logits(self, inputs: Inputs, num_classes: int) -> Tensor:
        """The logits (B, C) of a batch, float32, on the teacher's device.

        Raises:
            MismatchError: the output is not (B, C) for the data's C classes.
            DeviceMemoryError: the batch is too large.
            KdpipeError: the network cannot take these inputs.
        """
        size = num_rows(inputs)
        try:
            with self._autocast():
                output = call(self.module, self._on_device(inputs))
        except KdpipeError:
            raise
        except torch.OutOfMemoryError:
            raise DeviceMemoryError(
                f"The teacher ran out of memory with batches of {size}. Give a smaller --batch-size."
            ) from None
        except Exception as error:  # a network may raise anything when its input does not fit
            raise unfit(
                "The teacher", inputs, error, "Does --preprocess give it the size and channels it was trained with?"
            ) from error
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != size:
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise BadLogitsError(f"The teacher gives {shape} for {size} inputs, not (batch, classes) logits.")
        if output.shape[1] != num_classes:
            raise MismatchError(
                f"The teacher gives {output.shape[1]} classes, the data set has {num_classes}. Use a teacher of these "
                "classes, or list all the teacher's classes in order: folder:DIR,classes=FILE."
            )
        return output.float()

    def _autocast(self) -> AbstractContextManager[object]:
        """An ONNX file computes in its own precision."""
        return nullcontext() if self.runtime == "onnx" else autocast(self.precision, self.device)

    def _on_device(self, inputs: Inputs) -> Inputs:
        moved = each(inputs, lambda tensor: tensor.to(self.device, non_blocking=True))
        if self.device.type == "cuda" and isinstance(moved, Tensor) and moved.ndim == 4:
            return moved.to(memory_format=torch.channels_last)
        return moved

    def compiled(self) -> "Teacher":
        """The same teacher through ``torch.compile``, which takes minutes at first and pays for long passes."""
        return replace(self, module=torch.compile(self.module), runtime="compile")  # pyright: ignore[reportArgumentType]

    def fitting_batch_size(self, example: Inputs, num_classes: int, wanted: int) -> int:
        """``wanted``, halved until a batch of it fits into the device's memory.

        Args:
            example: (1, ...) an input.
            num_classes: C.
            wanted: the batch size to begin with.

        Raises:
            DeviceMemoryError: not even one input fits.
        """
        while True:
            try:
                self.logits(_repeated(example, wanted), num_classes)
            except DeviceMemoryError:
                if wanted == 1:
                    raise
                wanted //= 2
            else:
                return wanted


def load_teacher(
    spec: str, samples: Samples, *, preprocess: str | None, device: torch.device, precision: str
) -> Teacher:
    """Load the teacher that a spec names.

    Its preprocessing is, in this order: the one given; the one its weights file records (kdpipe's own students);
    the one torchvision or timm publishes with its weights; an attribute ``preprocessing`` of the network; else plain
    ``image`` (pixels scaled to [0, 1]).

    Raises:
        UsageError, MismatchError, KdpipeError: as :func:`kdpipe.pipeline.models.load_model`.
    """
    parsed = Spec.parse(spec)
    if not _has_weights(parsed):
        also = " or pretrained=true" if parsed.name == "timm" else ""
        raise UsageError(f"The teacher '{spec}' names no weights: it would know nothing. Add weights=FILE{also}.")
    recorded = ModelCard.of_weights(parsed.options.get("weights", ""))
    if recorded is not None:
        _check_classes(recorded, spec, samples)
    known = Preprocessing.parse(preprocess) if preprocess else recorded.preprocessing if recorded else None
    expected = known or (Preprocessing(channels=3) if parsed.name in ("torchvision", "timm") else Preprocessing())
    channels = num_channels(samples, expected)
    loaded = load_model(parsed, num_classes=samples.num_classes, in_channels=channels, device=device)
    module = set_eval(loaded.module)
    info = TeacherInfo(
        spec=parsed.public(),
        checksum=_checksum(parsed, module),
        num_parameters=parameter_count(module),
        libraries={name: version(name) for name in ("torch", "torchvision", "pillow")},
    )
    module.requires_grad_(requires_grad=False)
    preprocessing = known or _published(loaded) or expected
    if isinstance(module, OnnxNetwork):
        return on_onnx(module, preprocessing, replace(info, num_parameters=module.num_parameters))
    module = module.to(device)
    if device.type == "cuda":  # convolutions in half precision are faster so
        module = module.to(memory_format=torch.channels_last)
    return Teacher(module, preprocessing, info, device, precision)


def on_onnx(network: OnnxNetwork, preprocessing: Preprocessing, info: TeacherInfo) -> Teacher:
    """The teacher that onnxruntime runs; its manifest names the version."""
    info = replace(info, libraries=info.libraries | {"onnxruntime": network.version})
    return Teacher(network, preprocessing, info, network.device, network.precision, runtime="onnx")


def _repeated(row: Inputs, count: int) -> Inputs:
    """A batch of ``count`` times the same sample, given as a batch of one; takes no memory."""
    return each(row, lambda tensor: tensor.expand(count, *tensor.shape[1:]))


def _has_weights(spec: Spec) -> bool:
    if spec.name == "timm" and spec.options.get("pretrained", "").lower() in ("true", "1"):
        return True
    return spec.name not in ("kdpipe", "torchvision", "timm") or "weights" in spec.options


def _checksum(spec: Spec, module: nn.Module) -> str:
    """Of the weights; of the whole file for a program, whose graph can differ under the same weights."""
    if isinstance(module, OnnxNetwork):
        return module.checksum
    if spec.name == "export":
        with Path(spec.location).expanduser().open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return state_checksum(module)


def num_channels(samples: Samples, preprocessing: Preprocessing) -> int:
    """The channels of the input tensors: their first axis."""
    first = preprocessing.one(samples.raw(0))
    return int(first.shape[0]) if isinstance(first, Tensor) and first.ndim == 3 else 1


def _published(loaded: LoadedModel) -> Preprocessing | None:
    """The preprocessing that comes with the network, if it says."""
    if loaded.torchvision_transforms is not None:
        return Preprocessing.from_torchvision(loaded.torchvision_transforms)
    if loaded.timm_config is not None:
        return Preprocessing.from_timm(loaded.timm_config)
    own = getattr(loaded.module, "preprocessing", None)
    return Preprocessing.parse(own) if isinstance(own, str) else None


def _check_classes(card: ModelCard, spec: str, samples: Samples) -> None:
    if card.classes != fingerprint(samples.class_names) and card.num_classes == samples.num_classes:
        raise MismatchError(
            f"The teacher '{spec}' was trained on other class names, or on these in another order, than "
            f"'{samples.spec}' has. Its logits would go to the wrong classes."
        )
