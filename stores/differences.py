"""What differs between the settings that something was begun with and those that are asked for now."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_SHORT = 80


def told_differences(there: Mapping[str, Any], here: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """The differences for a message: ``lr is 0.1 there, 0.2 here; arrays differ``.

    Args:
        there: settings by name, as JSON gives them.
        here: the same of what is asked for.
        names: what to call some of them; by default as a flag is called.
    """
    return "; ".join(_differences(there, here, names or {}))


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
