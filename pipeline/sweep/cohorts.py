"""Which trials are trained side by side."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TypeVar

import torch

from ...stores import Store, UsageError
from ...stores.reader import physical_memory
from ..config import DistillConfig
from ..distill import shared_settings
from ..hardware import pick_device
from ..losses import Objective
from ..models import load_model
from ..specs import Spec
from ..training.training_data import pick_order

KeyT = TypeVar("KeyT")

# reading costs each of 16 little; more would gain little, and lose more when the process is killed
_LARGEST = 16
# of the memory, for what students keep between their steps
_SHARE = 0.25
# weights, gradients, two moments, an average
_COPIES = 5


def cohorts(
    configs: Mapping[KeyT, DistillConfig], store_of: Callable[[DistillConfig], Store | None], limit: int | None
) -> list[list[KeyT]]:
    """Trials in groups that can be trained side by side: same data, same batches, same order, same store.

    Between steps a student keeps its weights and what its optimizer has; what a step needs is free again for the next
    student, so that memory hardly bounds small students.

    Args:
        configs: of the trials, by anything that names them.
        store_of: the store that a trial learns from.
        limit: students of a group at most; None for 16, fewer where a quarter of the memory does not hold them.
    """
    groups: dict[object, list[KeyT]] = {}
    for key, config in configs.items():
        objective = Objective.parse(config.loss, config.ce_weight)
        shared = (*shared_settings(config).values(), pick_order(config, store_of(config), objective))
        groups.setdefault(shared, []).append(key)
    return [part for group in groups.values() for part in _cut(group, configs, limit)]


def _cut(group: Sequence[KeyT], configs: Mapping[KeyT, DistillConfig], limit: int | None) -> list[list[KeyT]]:
    """A group in parts that memory allows."""
    budget = float("inf") if limit is not None else _SHARE * _memory(configs[group[0]].device)
    parts: list[list[KeyT]] = []
    left = 0.0
    for key in group:
        needed = _COPIES * student_bytes(configs[key].student)
        if not parts or len(parts[-1]) >= (limit or _LARGEST) or needed > left:
            parts.append([])
            left = budget
        parts[-1].append(key)
        left -= needed
    return parts


@cache
def student_bytes(student: str) -> int:
    """About what the weights of a student take.

    Raises:
        UsageError: the spec names no network.
    """
    try:
        module = load_model(Spec.parse(student), num_classes=1000, in_channels=3, student=True).module
    except UsageError:
        raise
    except Exception:  # whatever it is, its trial will say so
        return 0
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def _memory(device_name: str) -> int:
    device = pick_device(device_name)
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else physical_memory()
