r"""Specs: the short strings that name data, models and losses on the command line.

Grammar: ``NAME[:LOCATION][,key=value]...``. A comma separates only where ``key=`` follows it, so that
``mean=0.5,0.4,0.3,std=1,1,1`` needs no quoting; a literal comma before ``key=`` is written ``\,``, and a backslash
right before a comma ``\\``.
"""

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from ..stores.errors import UsageError, unknown

_SECRET = re.compile(r"token$|secret|passw|pwd|credential|(api|access)_?key|sig(nature)?$|^auth", re.IGNORECASE)
_USER = re.compile(r"//[^/]*@")
_SEPARATOR = re.compile(r"(\\*),(?=[A-Za-z_]\w*=)")

OptionsT = TypeVar("OptionsT")


@dataclass(frozen=True)
class Spec:
    """A parsed spec.

    Attributes:
        name: what comes before the colon: a scheme (``folder``) or a plain name (``kd``).
        location: what comes after it, or the empty string.
        options: the ``key=value`` pairs, as text.
        beside: keys that were taken out of a spec of this name, whether given or not: a message lists them too.
    """

    name: str
    location: str = ""
    options: dict[str, str] = field(default_factory=dict)
    beside: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read a spec from its text.

        Raises:
            UsageError: the text is empty, or an option is given twice.
        """
        head, *pairs = _split(text)
        name, _, location = head.partition(":")
        if not name.strip():
            raise UsageError(f"The spec '{text}' names nothing. Write NAME:LOCATION,key=value.")
        options: dict[str, str] = {}
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in options:
                raise UsageError(f"The spec '{text}' gives '{key}' twice. Give it once.")
            options[key] = value
        return cls(name.strip(), location, options)

    def __str__(self) -> str:
        head = f"{self.name}:{self.location}" if self.location else self.name
        return _join([head, *(f"{key}={value}" for key, value in self.options.items())])

    def public(self) -> str:
        """The spec as a store may record it: options that look like a secret, users and queries are left out."""
        kept = {key: _public_address(value) for key, value in self.options.items() if not _SECRET.search(key)}
        return str(dataclasses.replace(self, location=_public_address(self.location), options=kept))

    def take(self, *keys: str) -> "tuple[Spec, Spec]":
        """Split into (the options named by ``keys``, the rest); both keep name and location."""
        taken = {key: value for key, value in self.options.items() if key in keys}
        rest = {key: value for key, value in self.options.items() if key not in keys}
        beside = (*self.beside, *keys)
        return dataclasses.replace(self, options=taken), dataclasses.replace(self, options=rest, beside=beside)

    def into(self, options_type: type[OptionsT]) -> OptionsT:
        """The options as a dataclass of ``options_type``: values converted, unknown keys refused.

        Raises:
            UsageError: an unknown key (the nearest is suggested), a value of the wrong type, or one that is missing.
        """
        fields = {f.name: f for f in dataclasses.fields(options_type)}  # pyright: ignore[reportArgumentType]
        for key in self.options:
            if key not in fields:
                raise unknown(f"option of '{self.name}'", key, {*fields, *self.beside})
        missing = [name for name, f in fields.items() if name not in self.options and _is_required(f)]
        if missing:
            raise UsageError(f"The spec '{self}' needs {' and '.join(f'{name}=...' for name in missing)}.")
        hints = typing.get_type_hints(options_type)
        values: dict[str, Any] = {
            key: value.split(",") if _is_tuple(hints[key]) else value for key, value in self.options.items()
        }
        for key, value in values.items():
            if not _reads_as(value, hints[key]):
                wanted = f"{key}={self.options[key]} must be {in_words(hints[key])}"
                raise UsageError(f"The spec '{self}' cannot be read: {wanted}.")
        try:
            return msgspec.convert(values, options_type, strict=False)
        except msgspec.ValidationError as error:
            reason = str(error).removesuffix(".")
            raise UsageError(f"The spec '{self}' cannot be read: {reason}.") from None


def in_words(hint: Any) -> str:
    """What a value of this type is, for a message."""
    kinds = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(str, kinds))
    if typing.get_origin(hint) is tuple:
        return f"a list between commas, each {in_words(kinds[0])}"
    if kinds:  # a union with None
        return in_words(kinds[0])
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(hint, "a text")


def _public_address(text: str) -> str:
    """An address without user, password and query; any other text as it is."""
    return _USER.sub("//", text.partition("?")[0]) if "://" in text else text


def _split(text: str) -> list[str]:
    """The parts between separators, unescaped: of n backslashes before a comma half are meant, an odd one escapes."""
    parts, start = [], 0
    for match in _SEPARATOR.finditer(text):
        if len(match[1]) % 2 == 0:
            parts.append(text[start : match.end()])
            start = match.end()
    halved = [re.sub(r"(\\+),", lambda match: "\\" * (len(match[1]) // 2) + ",", part) for part in parts]
    last = re.sub(r"(\\+),", lambda match: "\\" * (len(match[1]) // 2) + ",", text[start:])
    return [*(part.removesuffix(",") for part in halved), last]


def _join(parts: list[str]) -> str:
    """The inverse of :func:`_split`."""
    *separated, last = (re.sub(r"(\\+),", r"\1\1,", part) for part in [*(f"{part}," for part in parts[:-1]), parts[-1]])
    escaped = [_SEPARATOR.sub(r"\1\\,", part) for part in [*(part.removesuffix(",") for part in separated), last]]
    return ",".join(escaped)


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _reads_as(value: Any, hint: Any) -> bool:
    try:
        msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError:
        return False
    return True


def _is_tuple(hint: object) -> bool:
    return any(typing.get_origin(kind) is tuple for kind in (hint, *typing.get_args(hint)))
