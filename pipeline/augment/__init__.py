"""Augmented views that can be replayed: drawn for (seed, sample id, view) and nothing else."""

from .augmentation import Augmentation
from .generator import ViewKeys, view_keys
from .geometry import Geometry, PaddedCrop, ResizedCrop
from .library import ALLOWED, Transform
from .mixing import Mixing
from .probe import take_probe
from .view import AugmentedView

__all__ = [
    "ALLOWED",
    "Augmentation",
    "AugmentedView",
    "Geometry",
    "Mixing",
    "PaddedCrop",
    "ResizedCrop",
    "Transform",
    "ViewKeys",
    "take_probe",
    "view_keys",
]
