"""What differs, for a message: between settings then and now, and between the classes of two data sets."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

_SHORT = 80
_SHOWN_CLASSES = 3


def told_differences(there: Mapping[str, Any], here: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """The differences for a message: ``lr is 0.1 there, 0.2 here; arrays differ``.

    Args:
        there: settings by name, as JSON gives them.
        here: the same of what is asked for.
        names: what to call some of them; by default as a flag is called.
    """
    return "; ".join(_differences(there, here, names or {}))


def told_class_differences(first: Sequence[str], second: Sequence[str], places: tuple[str, str]) -> str:
    """The differences of two lists of class names: their numbers and the first names of either, or the first place.

    Args:
        first: class names, in order.
        second: others, or the same in another order.
        places: how to call where the two are: ``("in the store", "in the data")``.
    """
    at_first, at_second = places
    if sorted(first) == sorted(second):
        class_id, (one, other) = next(
            (i, pair) for i, pair in enumerate(zip(first, second, strict=True)) if len({*pair}) > 1
        )
        return f"the same in another order (class {class_id} is '{one}' {at_first}, '{other}' {at_second})"
    only = [sorted({*a} - {*b})[:_SHOWN_CLASSES] or "none" for a, b in ((first, second), (second, first))]
    counts = f"{len(first):,} {at_first}, {len(second):,} {at_second}"
    return f"{counts}; only {at_first}: {only[0]}, only {at_second}: {only[1]}"


def _differences(
    there: Mapping[str, Any], here: Mapping[str, Any], names: Mapping[str, str], within: str = ""
) -> Iterator[str]:
    for key in sorted({*there, *here}):
        old, new = there.get(key), here.get(key)
        name = names.get(key, within + key.replace("_", "-"))
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, {}, f"{name}.")
            continue
        texts = [_text(value) for value in (old, new)]
        yield f"{name} differ" if len("".join(texts)) > 2 * _SHORT else f"{name} is {texts[0]} there, {texts[1]} here"


def _text(value: Any) -> str:
    return "not set" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode()
