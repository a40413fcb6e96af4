"""Codecs as text: ``float32 | float16 | int8 | topk:K[,temperatures=1,4] | factorised``, and ``+zstd`` after any."""

from functools import lru_cache

from ..errors import UsageError, unknown
from .codec import COMPRESSED, Codec
from .dense import Float16, Float32
from .factorised import Factorised
from .square_root import Int8
from .top import TopK

CODECS: dict[str, type[Codec]] = {codec.name: codec for codec in (Float32, Float16, Int8, TopK, Factorised)}


@lru_cache(64)
def parse_codec(text: str) -> Codec:
    """Read a codec from its text; ``str(codec)`` is the inverse.

    Raises:
        UsageError: an unknown codec (the nearest is suggested), a missing K, or a value out of range.
    """
    spec = text.removesuffix(COMPRESSED)
    if "+" in spec:
        raise UsageError(f"The codec '{text}' cannot be read: only '{COMPRESSED}' can follow a codec.")
    head, *options = spec.split(",temperatures=")
    name, _, location = head.partition(":")
    if name not in CODECS:
        raise unknown("codec", name, [*CODECS, *(f"{known}{COMPRESSED}" for known in CODECS)])
    compressed = spec != text
    if name == TopK.name:
        if len(options) > 1 or not location:
            raise UsageError(f"The codec '{text}' cannot be read. Write topk:K,temperatures=1,4.")
        k = _count(location, text)
        if not options:
            return TopK(k=k, compressed=compressed)
        return TopK(k=k, temperatures=_numbers(options[0], text), compressed=compressed)
    if name == Factorised.name and not options:
        return Factorised(num_features=_count(location, text) if location else 0, compressed=compressed)
    if options or location:
        raise UsageError(f"The codec '{name}' takes no options; '{text}' has some. Write {name} or {name}{COMPRESSED}.")
    return CODECS[name](compressed=compressed)


def _count(number: str, text: str) -> int:
    if not number.isdecimal() or not number.isascii() or len(number) > 6:
        raise UsageError(f"The codec '{text}' cannot be read: '{number}' is not a number of classes or features.")
    return int(number)


def _numbers(values: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in values.split(","))
    except ValueError:
        raise UsageError(f"The codec '{text}' cannot be read: '{values}' is no list of temperatures.") from None
