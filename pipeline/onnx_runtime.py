"""A torch teacher run by onnxruntime instead (``--runtime onnx``): exported, compared, and only then used.

Shapes: B batch, C classes.
"""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..stores.errors import KdpipeError, MismatchError, UsageError
from .hardware import round_off
from .models.onnx import OnnxNetwork, OnnxOptions, onnx_libraries
from .models.weights import first_line
from .teachers import Teacher, on_onnx
from .tensors import Inputs

# rows that are traced; other batch sizes are then seen to work
_EXAMPLES = 2


def with_onnx_runtime(teacher: Teacher, inputs: Inputs, num_classes: int) -> Teacher:
    """The same teacher, run by onnxruntime: on a CPU often several times as fast.

    Its logits for ``inputs`` may differ from torch's by the round-off of fp32 (1e-4 on a CPU, 5e-3 on a GPU) times the
    logits' spread, their largest less their smallest.

    Args:
        teacher: in fp32; one that onnxruntime runs already is given back.
        inputs: (B, ...) a batch of the data.
        num_classes: C.

    Raises:
        UsageError: the inputs have names.
        KdpipeError: the network cannot be exported.
        MismatchError: the exported network gives other logits.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    if teacher.runtime == "onnx":
        return teacher
    if isinstance(inputs, dict):
        raise UsageError(
            f"onnxruntime is given one input, the data set gives {', '.join(sorted(inputs))}. Use --runtime torch."
        )
    onnx_libraries()
    expected = teacher.logits(inputs, num_classes).cpu()
    with tempfile.TemporaryDirectory(prefix="kdpipe-onnx-") as folder:  # onnxruntime has read it when it is gone
        path = Path(folder) / "teacher.onnx"
        _export(teacher.module, inputs[:_EXAMPLES].to(teacher.device), path)
        network = OnnxNetwork(path, OnnxOptions(log=False), teacher.device)
    exported = on_onnx(network, teacher.preprocessing, teacher.info)
    _compare(expected, exported.logits(inputs, num_classes).cpu(), on_cpu=network.device.type == "cpu")
    return exported


def _export(module: nn.Module, inputs: Tensor, path: Path) -> None:
    """By tracing: torch's other exporter needs one more package."""
    batch = {0: "batch"}
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                module, (inputs,), path, dynamo=False, input_names=["inputs"], output_names=["logits"],
                dynamic_axes={"inputs": batch, "logits": batch},
            )  # fmt: skip
    except Exception as error:  # whatever a network's operators meet in the exporter
        raise KdpipeError(
            f"The teacher cannot be exported to ONNX ({type(error).__name__}: {first_line(error)}). "
            "Use --runtime torch."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what the exporter says: what it warns of is measured, and at a failure it prints the whole graph."""
    torch._C._jit_set_onnx_log_output_stream("stderr")  # by default stdout, which is for results
    stderr = os.dup(2)
    try:
        with warnings.catch_warnings(), open(os.devnull, "wb") as nowhere:  # noqa: PTH123  (no path of its own)
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 2)  # it prints from C++
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _compare(expected: Tensor, found: Tensor, *, on_cpu: bool) -> None:
    spread = float(expected.max() - expected.min())
    difference = float((found - expected).abs().max())
    allowed = round_off("fp32", on_cpu) * spread
    if not difference <= allowed:  # NaN compares false
        raise MismatchError(
            f"onnxruntime gives other logits than torch for the first {len(expected)} samples: they differ by up to "
            f"{difference:.3g}, {allowed:.2g} is rounding at a spread of {spread:.3g}. Use --runtime torch."
        )
