"""The losses a student is trained on: pure functions of tensors, and the registry that names them."""

from .ce import CrossEntropy
from .grkd import GRKD, grkd, label_pair_conflict
from .kd import KD, kd
from .ltkd import LTKD, group_masses, ltkd
from .objective import Objective
from .registry import LOSSES, Loss, LossInputs, parse_loss, register

__all__ = [
    "GRKD",
    "KD",
    "LOSSES",
    "LTKD",
    "CrossEntropy",
    "Loss",
    "LossInputs",
    "Objective",
    "grkd",
    "group_masses",
    "kd",
    "label_pair_conflict",
    "ltkd",
    "parse_loss",
    "register",
]
