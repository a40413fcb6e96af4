"""The teacher: a network in evaluation mode with the preprocessing it was trained with."""

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from ..stores.errors import BadLogitsError, KdpipeError, MismatchError, UsageError
from ..stores.manifest import TeacherInfo, fingerprint
from .data import Samples
from .hardware import autocast
from .model_card import ModelCard
from .models import LoadedModel, load_model, parameter_count, set_eval, state_checksum
from .models.weights import first_line
from .specs import Spec
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
    """

    module: nn.Module
    preprocessing: Preprocessing
    info: TeacherInfo
    device: torch.device
    precision: str

    @torch.inference_mode()
    def logits(self, inputs: Tensor, num_classes: int) -> Tensor:
        """The logits (B, C) of a batch, float32, on the teacher's device.

        Raises:
            MismatchError: the output is not (B, C) for the data's C classes.
            KdpipeError: the network cannot take these inputs.
        """
        try:
            with autocast(self.precision, self.device):
                output = self.module(inputs.to(self.device, non_blocking=True))
        except torch.OutOfMemoryError:
            raise KdpipeError(
                f"The teacher ran out of memory with batches of {len(inputs)}. Give a smaller --batch-size."
            ) from None
        except Exception as error:  # a network may raise anything when its input does not fit
            raise KdpipeError(
                f"The teacher cannot take inputs of shape {tuple(inputs.shape)}: {first_line(error)}. "
                "Does --preprocess give it the size and channels it was trained with?"
            ) from error
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(inputs):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise BadLogitsError(f"The teacher gives {shape} for {len(inputs)} inputs, not (batch, classes) logits.")
        if output.shape[1] != num_classes:
            raise MismatchError(
                f"The teacher gives {output.shape[1]} classes, the data set has {num_classes}. Use a teacher of these "
                "classes, or list all the teacher's classes in order: folder:DIR,classes=FILE."
            )
        return output.float()


def load_teacher(
    spec: str, samples: Samples, *, preprocess: str | None, device: torch.device, precision: str
) -> Teacher:
    """Load the teacher that a spec names.

    Its preprocessing is, in this order: the one given; the one its weights file records (kdpipe's own students);
    the one torchvision publishes with its weights; an attribute ``preprocessing`` of the network; else plain
    ``image`` (pixels scaled to [0, 1]).

    Raises:
        UsageError, MismatchError, KdpipeError: as :func:`kdpipe.pipeline.models.load_model`.
    """
    parsed = Spec.parse(spec)
    if parsed.name in ("kdpipe", "torchvision") and "weights" not in parsed.options:
        raise UsageError(f"The teacher '{spec}' names no weights: it would know nothing. Add weights=FILE.")
    recorded = ModelCard.of_weights(parsed.options.get("weights", ""))
    if recorded is not None:
        _check_classes(recorded, spec, samples)
    known = Preprocessing.parse(preprocess) if preprocess else recorded.preprocessing if recorded else None
    expected = known or (Preprocessing(channels=3) if parsed.name == "torchvision" else Preprocessing())
    loaded = load_model(parsed, num_classes=samples.num_classes, in_channels=num_channels(samples, expected))
    module = set_eval(loaded.module)
    info = TeacherInfo(
        spec=parsed.public(),
        checksum=_checksum(parsed, module),
        num_parameters=parameter_count(module),
        libraries={name: version(name) for name in ("torch", "torchvision", "pillow")},
    )
    module.requires_grad_(requires_grad=False)
    return Teacher(module.to(device), known or _published(loaded) or expected, info, device, precision)


def _checksum(spec: Spec, module: nn.Module) -> str:
    """Of the weights; of the whole file for an exported program, whose graph can differ under the same weights."""
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
    own = getattr(loaded.module, "preprocessing", None)
    return Preprocessing.parse(own) if isinstance(own, str) else None


def _check_classes(card: ModelCard, spec: str, samples: Samples) -> None:
    if card.classes != fingerprint(samples.class_names) and card.num_classes == samples.num_classes:
        raise MismatchError(
            f"The teacher '{spec}' was trained on other class names, or on these in another order, than "
            f"'{samples.spec}' has. Its logits would go to the wrong classes."
        )
