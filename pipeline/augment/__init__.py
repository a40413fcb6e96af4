"""Augmented views that can be replayed: drawn for (seed, sample id, view) and nothing else."""

from .augmentation import Augmentation
from .generator import ViewKeys, view_keys
from .geometry import Geometry, PaddedCrop, ResizedCrop
from .library import ALLOWED, Transform
from .mixing import Mixing
from .probe import LibraryProbe
from .view import AugmentedView

__all__ = [
    "ALLOWED",
    "Augmentation",
    "AugmentedView",
    "Geometry",
    "LibraryProbe",
    "Mixing",
    "PaddedCrop",
    "ResizedCrop",
    "Transform",
    "ViewKeys",
    "view_keys",
]
