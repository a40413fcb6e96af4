"""Programs saved by ``torch.export.save``: teachers without their Python code.

Such a network can be run and not trained. Export it in evaluation mode, with a dynamic batch dimension
(``dynamic_shapes=({0: torch.export.Dim("batch")},)``), or it takes batches of one size only.

A program is code: kdpipe refuses pickled objects inside the file, but torch evaluates the size expressions
that it holds. Open the programs you would also run.
"""

import zipfile
from pathlib import Path

import torch
from torch import nn
from torch._ops import OpOverload

from ...stores.errors import KdpipeError, UsageError
from .weights import first_line, restricted_unpickling

# The records of a .pt2 file that torch.export.load gives to unrestricted unpicklers.
_PICKLED_RECORDS = ("opaque_obj", "custom_obj")


def load_exported(location: str) -> nn.Module:
    """The module of an exported program.

    Raises:
        UsageError: there is no such file, it holds pickled objects, or it was exported in training mode.
        KdpipeError: the file is damaged or is no exported program.
    """
    path = Path(location).expanduser()
    if not path.is_file():
        raise UsageError(f"There is no exported program {path}. Check the path after export:.")
    try:
        with zipfile.ZipFile(path) as archive:
            records = [Path(name).name for name in archive.namelist()]
        if any(record.startswith(_PICKLED_RECORDS) for record in records):
            raise UsageError(
                f"The exported program {path} holds pickled objects, which kdpipe never opens. Export a "
                "network whose constants are tensors."
            )
        with restricted_unpickling():
            module = torch.export.load(str(path)).module()
    except KdpipeError:
        raise
    except Exception as error:  # zip, JSON, the graph's deserializer: each raises its own
        raise KdpipeError(
            f"{path} cannot be read as an exported program ({first_line(error)}). It is damaged, was not "
            f"written by torch.export.save, or by a version too far from torch {torch.__version__}."
        ) from error
    if _trains(module):
        raise UsageError(
            f"The program {path} was exported in training mode: its dropout or batch norm would change the "
            "logits from batch to batch. Call model.eval() before torch.export.export."
        )
    return module


def set_eval(module: nn.Module) -> nn.Module:
    """Switch to evaluation mode in place and return the module.

    An exported program has no modes and says so by raising; `load_exported` has seen to it that it was
    exported in the right one.
    """
    try:
        return module.eval()
    except NotImplementedError:
        return module


def _trains(program: nn.Module) -> bool:
    """Whether an operator in one of the program's graphs is called with ``train`` or ``training`` true."""
    graphs = [module.graph for module in program.modules() if isinstance(module, torch.fx.GraphModule)]
    for node in (node for graph in graphs for node in graph.nodes):
        if not isinstance(node.target, OpOverload):
            continue
        for position, argument in enumerate(node.target._schema.arguments):
            if argument.name not in ("train", "training"):
                continue
            given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            if given is True:
                return True
    return False
