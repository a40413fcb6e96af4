"""ONNX files: teachers of any framework, run by onnxruntime (extra ``onnx``). They can be run and not trained.

A file is data: its operators come from onnxruntime, and what lies outside the file is read from its folder only.

Shapes: B batch, C classes.
"""

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...stores.errors import BadLogitsError, KdpipeError, UsageError, missing_extra, unknown
from .weights import first_line

logger = logging.getLogger(__name__)

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(uint8)": torch.uint8,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
}
_FATAL_ONLY = 4  # onnxruntime's log level: what goes wrong is raised too, and told in our words


@dataclass(frozen=True, kw_only=True)
class OnnxOptions:
    """Options of ``onnx:FILE``.

    Attributes:
        output: the output that gives the logits; needed where there are several.
        log: take the logarithm of an output of probabilities; ``false`` takes the output of a softmax as it is.
    """

    output: str | None = None
    log: bool | None = None


class OnnxNetwork(nn.Module):
    """An ONNX file as a network: tensors in, tensors out, run by onnxruntime on as many threads as torch has.

    Batches of every size can be given. Where the file fixes the size of its batches, the network runs in batches of
    that size, the last one filled up with repeats of its last input.

    Args:
        path: the file.
        options: which output, and whether to take its logarithm.
        device: a GPU is used if onnxruntime was built for it.

    Attributes:
        checksum: ``sha256:<hex>`` of the file and of the files with its weights, if it has such.
        num_parameters: numbers in its initialisers.
        version: of onnxruntime.
        precision: "fp16" where an initialiser is in half precision, else "fp32".
        device: where it runs.

    Raises:
        UsageError: there is no such file, it has weights outside its folder, or its input or output is not the one
            that is needed.
        KdpipeError: the file is damaged, or onnxruntime cannot run it.
        MissingExtraError: onnx and onnxruntime are not installed.
    """

    def __init__(self, path: Path, options: OnnxOptions, device: torch.device) -> None:
        super().__init__()
        if not path.is_file():
            raise UsageError(f"There is no ONNX file {path}. Check the path after onnx:.")
        onnx, onnxruntime = onnx_libraries()
        self.version: str = onnxruntime.__version__
        graph = _read(path).graph
        weights = list(_tensors(graph))
        self._log = bool(options.log)
        self.checksum = _checksum(path, _outside_files(path, weights))
        self.num_parameters = sum(math.prod(tensor.dims) for tensor in graph.initializer)
        half = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        self.precision = "fp16" if any(tensor.data_type in half for tensor in graph.initializer) else "fp32"
        self._session, self.device = _start(path, device)
        self._input = _the_input(path, self._session.get_inputs())
        self._output = _the_output(path, [value.name for value in self._session.get_outputs()], options.output)
        if options.log is None and any(
            node.op_type == "Softmax" and self._output in node.output for node in graph.node
        ):
            raise UsageError(
                f"The output '{self._output}' of {path} is a softmax: probabilities, not logits. Add log=true to take "
                "their logarithm, or log=false to take them as they are."
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (B, C) of inputs (B, ...), on the inputs' device.

        Raises:
            ValueError: the inputs do not fit the file's.
            BadLogitsError: with ``log=true``, the output is no probability.
        """
        values = self._as_input(inputs)
        size = _fixed_batch(self._input)
        pieces = [values] if size is None else values.split(size)
        output = torch.cat([self._run(piece, size or len(piece)) for piece in pieces])
        return (_logarithm(output) if self._log else output).to(inputs.device)

    def _as_input(self, inputs: Tensor) -> Tensor:
        """The inputs on the CPU, in the type that the file asks for."""
        shape, dtype = self._input.shape, _DTYPES[self._input.type]
        named = f"the input '{self._input.name}' of the file is"
        fits = not shape or (
            len(shape) == inputs.ndim
            and all(not isinstance(n, int) or n == m for n, m in zip(shape[1:], inputs.shape[1:], strict=True))
        )
        if not fits:
            raise ValueError(f"{named} ({', '.join(str(n) for n in shape)})")
        if inputs.is_floating_point() != dtype.is_floating_point:
            raise ValueError(f"{named} {dtype}, this is {inputs.dtype}")
        return inputs.detach().to("cpu", dtype).contiguous()

    def _run(self, inputs: Tensor, size: int) -> Tensor:
        """The output of a batch that is filled up to ``size``."""
        count = len(inputs)
        if count < size:
            inputs = torch.cat([inputs, inputs[-1:].expand(size - count, *inputs.shape[1:])])
        (output,) = self._session.run([self._output], {self._input.name: inputs.numpy()})
        return torch.from_numpy(output)[:count]


def load_onnx(location: str, options: OnnxOptions, device: torch.device) -> OnnxNetwork:
    """The network of an ONNX file; see :class:`OnnxNetwork`."""
    return OnnxNetwork(Path(location).expanduser(), options, device)


def onnx_libraries() -> tuple[Any, Any]:
    """The packages onnx and onnxruntime.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    try:
        import onnx  # both only where they are asked for
        import onnxruntime
    except ImportError:
        raise missing_extra("onnx", "Running a teacher with onnxruntime") from None
    return onnx, onnxruntime


def _read(path: Path) -> Any:
    """The model in a file, without the weights that lie outside of it."""
    onnx, _ = onnx_libraries()
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # the protobuf library's own
        raise _damaged(path, error) from error
    if not model.graph.node:
        raise _damaged(path, ValueError("it has no operators"))
    return model


def _start(path: Path, device: torch.device) -> tuple[Any, torch.device]:
    """A session, and the device it runs on."""
    _, onnxruntime = onnx_libraries()
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        else:
            logger.warning("onnxruntime was not built for the GPU (onnxruntime-gpu is): the teacher runs on the CPU")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = _FATAL_ONLY
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's errors derive from Exception alone
        raise _damaged(path, error) from error
    on_gpu = session.get_providers()[0] == "CUDAExecutionProvider"
    return session, device if on_gpu else torch.device("cpu")


def _the_input(path: Path, inputs: list[Any]) -> Any:
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise UsageError(f"{path} has {len(inputs)} inputs ({names}). kdpipe gives a network one: the images.")
    if inputs[0].type not in _DTYPES:
        raise UsageError(f"The input '{inputs[0].name}' of {path} is a {inputs[0].type}, which no data set gives.")
    return inputs[0]


def _the_output(path: Path, names: list[str], wanted: str | None) -> str:
    if wanted is not None and wanted not in names:
        raise unknown(f"output of {path}", wanted, names)
    if wanted is None and len(names) > 1:
        raise UsageError(f"{path} has {len(names)} outputs. Say which gives the logits: output={' | '.join(names)}.")
    return wanted or names[0]


def _fixed_batch(value: Any) -> int | None:
    """The number of inputs that the file takes at once, or None."""
    return value.shape[0] if value.shape and isinstance(value.shape[0], int) else None


def _logarithm(probabilities: Tensor) -> Tensor:
    """Zeros count as the smallest float32: the logarithm stays finite."""
    probabilities = probabilities.float()
    if not bool(((probabilities >= 0) & (probabilities <= 1 + 1e-3)).all()):
        raise BadLogitsError("The teacher's output passes the range 0 to 1: it gives no probabilities. Drop log=true.")
    return probabilities.clamp(min=torch.finfo(torch.float32).tiny).log()


def _tensors(graph: Any) -> Iterator[Any]:
    """Every tensor with weights of a graph and of the graphs inside its operators."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            yield from _tensors(inner)


def _outside_files(path: Path, tensors: Iterable[Any]) -> list[Path]:
    """The files beside the model that hold weights of it.

    Raises:
        UsageError: one of them is not in the model's folder.
        KdpipeError: one of them is missing.
    """
    onnx, _ = onnx_libraries()
    external = (tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL)
    names = {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
    folder = path.parent.resolve()
    files = sorted((folder / name).resolve() for name in names)
    for file in files:
        if not file.is_relative_to(folder):
            raise UsageError(
                f"{path} has weights outside its folder, in {file}. kdpipe does not follow it there: copy model and "
                "weights into one folder, without links."
            )
        if not file.is_file():
            raise KdpipeError(f"{path} has weights in {file}, which is not there. Copy it beside the model.")
    return files


def _checksum(path: Path, others: list[Path]) -> str:
    """SHA-256 of the file as ``sha256sum`` gives it; with weights outside, of the files one after the other."""
    digest = hashlib.sha256()
    for file in (path, *others):
        with file.open("rb") as opened:
            while block := opened.read(2**20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _damaged(path: Path, error: Exception) -> KdpipeError:
    return KdpipeError(
        f"{path} cannot be read as an ONNX model ({first_line(error)}). It is damaged, incomplete, or has operators "
        "that this onnxruntime lacks: copy or export it again."
    )
