"""The networks of kdpipe, and loading every kind of network a model spec can name."""

# Importing a module of networks registers them.
from . import convnet, mobilenet, resnet, shufflenet, wide_resnet  # noqa: F401
from .exported import set_eval
from .load import LoadedModel, load_model
from .onnx import OnnxNetwork
from .registry import create_model, model_names, register_model
from .weights import parameter_count, state_checksum

__all__ = [
    "LoadedModel",
    "OnnxNetwork",
    "create_model",
    "load_model",
    "model_names",
    "parameter_count",
    "register_model",
    "set_eval",
    "state_checksum",
]
