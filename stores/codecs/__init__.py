"""Codecs: how a teacher's logits are stored, how much smaller they are then, and by how much they change."""

from .codec import Codec, LogitCodec
from .dense import Float16, Float32
from .factorised import Factorised
from .fidelity import Fidelity, FidelityTally
from .spec import CODECS, parse_codec
from .square_root import Int8
from .top import TopK

__all__ = [
    "CODECS",
    "Codec",
    "Factorised",
    "Fidelity",
    "FidelityTally",
    "Float16",
    "Float32",
    "Int8",
    "LogitCodec",
    "TopK",
    "parse_codec",
]
