"""The features of a teacher: what its last linear layer is given.

Shapes: B batch, C classes, F features.
"""

import numpy as np
import torch
from torch import Tensor, nn

from ..stores.errors import MismatchError, UsageError
from .hardware import round_off

# rows of every batch that are looked at: the product again for all would double the layer's cost
_CHECKED_ROWS = 2


class LastLayer:
    """The last ``nn.Linear`` of a teacher, and the features that it was given in the last pass.

    Args:
        module: the teacher.
        precision: of its pass: how exactly the layer's product can be expected to repeat.

    Raises:
        UsageError: it has no linear layer.
    """

    def __init__(self, module: nn.Module, precision: str) -> None:
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        if not layers:
            raise UsageError("The codec 'factorised' needs a teacher with a last nn.Linear, and this one has no such.")
        self._layer, self._precision = layers[-1], precision
        self._features: Tensor | None = None

    @property
    def num_features(self) -> int:
        """F."""
        return self._layer.in_features

    def constants(self, num_classes: int) -> dict[str, np.ndarray]:
        """What the store keeps once: ``classifier_weight`` (C, F) and ``classifier_bias`` (C,), float32.

        Raises:
            MismatchError: the layer gives another number of outputs than C.
        """
        if self._layer.out_features != num_classes:
            raise MismatchError(
                f"The teacher's last linear layer gives {self._layer.out_features} outputs for {num_classes} classes: "
                "it does not make the logits. Use another codec than factorised."
            )
        weight = self._layer.weight.detach().float().cpu()
        bias = torch.zeros(len(weight)) if self._layer.bias is None else self._layer.bias.detach().float().cpu()
        return {"classifier_weight": weight.numpy(), "classifier_bias": bias.numpy()}

    def watch(self) -> None:
        """Keep the features of every pass from now on, to be taken after it."""
        self._layer.register_forward_pre_hook(self._keep)

    def take(self, logits: Tensor) -> Tensor:
        """The features (B, F), float32, of the pass that gave these logits.

        Args:
            logits: (B, C) float32.

        Raises:
            MismatchError: the layer does not make these logits of them.
        """
        features, self._features = self._features, None
        if features is None:
            raise MismatchError(
                "The teacher's last linear layer took no part in its pass, or cannot be watched: "
                "use --runtime torch, or another codec than factorised."
            )
        if features.shape != (shape := (len(logits), self.num_features)):
            raise MismatchError(
                f"The teacher's last linear layer is given {tuple(features.shape)} for {len(logits)} inputs, not "
                f"{shape}: it does not make the logits. Use another codec than factorised."
            )
        features = features.float()
        part, expected = features[:_CHECKED_ROWS].double(), logits[:_CHECKED_ROWS].double()
        bias = 0 if self._layer.bias is None else self._layer.bias.double()
        difference = (part @ self._layer.weight.double().T + bias - expected).abs().amax(1)
        allowed = round_off(self._precision, logits.device.type == "cpu") * expected.abs().amax(1)
        if bool((difference > allowed).any()):
            raise MismatchError(
                f"The teacher's logits are off by {float(difference.max()):.3g} from what its last linear layer gives: "
                "something follows it. Use another codec than factorised."
            )
        return features

    def _keep(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0].detach()
