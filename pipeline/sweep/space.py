"""The space of a sweep: which settings there are, and the configuration of the run that each one means."""

import dataclasses
import itertools
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...stores.errors import UsageError, unknown
from ...stores.remote.location import Location
from ..config import DistillConfig
from ..losses import parse_loss
from ..specs import Spec, in_words
from ..training.optimisation import OptimiserConfig
from .config import SweepConfig

# a setting: values as text, by option
Point = dict[str, str]

# given by options of their own, or of no meaning for a trial
_ELSEWHERE = {"student": "Give --student several times.", "loss": "Give --loss several times.",
              "seed": "Give --seeds 0,1,2.", "out": "Each trial has a folder in --out.",
              "resume": "A sweep goes on by itself.", "tensorboard": "Give --tensorboard for all trials."}  # fmt: skip
_LOSS = "loss."


def parse_settings(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read ``--set key=a,b`` options; values that contain commas are separated by semicolons (``10,20;15,25``).

    A semicolon at the end makes one value of what has commas (``10,20;``).

    Raises:
        UsageError: a text without ``=``, or an option given twice.
    """
    settings: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, sign, values = text.partition("=")
        name = _plain(key.strip())
        if not sign or not name:
            raise UsageError(f"'--set {text}' cannot be read. Write --set option=value,value.")
        if name in settings:
            raise UsageError(f"--set gives '{key}' twice. Give all its values at once.")
        parts = values.removesuffix(";").split(";") if ";" in values else values.split(",")
        settings[name] = tuple(part.strip() for part in parts)
    return settings


def setting_texts(settings: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The inverse of :func:`parse_settings`, for the record."""
    kept = {key: [recorded(key, value) for value in values] for key, values in settings.items()}
    return [f"{key}={';'.join(values)}" + (";" if len(values) == 1 else "") for key, values in kept.items()]


def recorded(key: str, text: str) -> str:
    """The value of an option as it may be shown and kept: an address without what is secret in it."""
    return str(Location.parse(text)) if key == "store" else text


class Space:
    """All settings of a sweep.

    Args:
        config: of the sweep.

    Raises:
        UsageError: an option nobody knows (the nearest is suggested), or a value that cannot be read.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self._loss_options = {text: _options_of(text) for text in config.losses}
        for key in config.settings:
            self._check_key(key)

    @property
    def dimensions(self) -> dict[str, tuple[str, ...]]:
        """The values of every dimension but the seeds."""
        return {"student": self.config.students, "loss": self.config.losses, **self.config.settings}

    def points(self) -> list[Point]:
        """The whole grid, in order; an option that no loss of a setting has is left out of it."""
        names, values = self.dimensions.keys(), self.dimensions.values()
        points = [self.simplified(dict(zip(names, chosen, strict=True))) for chosen in itertools.product(*values)]
        return [dict(items) for items in dict.fromkeys(tuple(point.items()) for point in points)]

    def simplified(self, point: Point) -> Point:
        """The point without the options of losses that it does not have."""
        options = self._loss_options[point["loss"]]
        return {key: value for key, value in point.items() if not key.startswith(_LOSS) or key in options}

    def trial(self, point: Point, seed: int, out: Path) -> DistillConfig:
        """The run that a point and a seed mean.

        Raises:
            UsageError: a value cannot be read, or is out of range.
        """
        base = self.config.base
        own = {key: text for key, text in point.items() if key not in ("student", "loss") and not key.startswith(_LOSS)}
        values = {key: _typed(key, text) for key, text in own.items()}
        moved = {key: values.pop(key) for key in list(values) if key in _hints(OptimiserConfig)}
        return dataclasses.replace(
            base,
            student=point["student"],
            loss=tuple(self._loss(part, point) for part in _parts(point["loss"])),
            optimiser=dataclasses.replace(base.optimiser, **moved),
            seed=seed,
            out=out,
            **values,
        )

    def _loss(self, text: str, point: Point) -> str:
        """A part of a loss with the options that the point sets."""
        spec, fields, own_name = Spec.parse(text), _fields(text), _name(text)
        chosen = {}
        for key, value in point.items():
            name, option = _loss_key(key)
            if not key.startswith(_LOSS) or option not in fields or name not in ("", own_name):
                continue
            if option in spec.options:
                raise UsageError(f"Both --loss {text} and --set {key} give '{option}'. Leave it out of one of them.")
            chosen[option] = value
        return str(dataclasses.replace(spec, options={**spec.options, **chosen}))

    def _check_key(self, key: str) -> None:
        if key in _ELSEWHERE:
            raise UsageError(f"--set cannot vary '{key}'. {_ELSEWHERE[key]}")
        if key.startswith(_LOSS):
            known = set().union(*self._loss_options.values())
            if key not in known:
                raise unknown("option of these losses", key, known)
        elif key not in (known := _settable()):
            raise unknown("option to set", key, known)


def _plain(name: str) -> str:
    """A name of a flag or a loss as that of a column."""
    return name.replace("-", "_")


def _parts(loss: str) -> list[str]:
    """The losses that are summed: ``kd + grkd,weight=0.1``.

    Raises:
        UsageError: nothing is before or after a plus.
    """
    parts = [part.strip() for part in re.split(r"(?:^|\s)\+(?:\s|$)", loss)]
    if not all(parts):
        raise UsageError(f"The sum of losses '{loss}' lacks one. Write ' + ' between two losses.")
    return parts


def _name(loss: str) -> str:
    """The name of a loss, one's own too, as options to set have it."""
    return _plain(parse_loss(loss).name)


def _fields(loss: str) -> set[str]:
    return {field.name for field in dataclasses.fields(parse_loss(loss))}


def _options_of(loss: str) -> set[str]:
    """What may be set of a loss, a sum too: ``loss.OPTION`` and ``loss.NAME.OPTION``."""
    known = set()
    for part in _parts(loss):
        name = _name(part)
        for option in _fields(part):
            known |= {f"{_LOSS}{option}", f"{_LOSS}{name}.{option}"}
    return known


def _loss_key(key: str) -> tuple[str, str]:
    """Name of the loss, or nothing, and its option."""
    name, _, option = key.removeprefix(_LOSS).rpartition(".")
    return name, option


def _settable() -> set[str]:
    names = {*_hints(DistillConfig), *_hints(OptimiserConfig)} - {"optimiser", *_ELSEWHERE}
    return names | {f"{_LOSS}OPTION"}


def _hints(config_type: type) -> Mapping[str, Any]:
    return typing.get_type_hints(config_type)


def _typed(key: str, text: str) -> Any:
    """A value of an option from its text.

    Raises:
        UsageError: it cannot be read as one.
    """
    hint = {**_hints(DistillConfig), **_hints(OptimiserConfig)}[key]
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if types.NoneType in kinds and text.lower() in ("none", "auto"):
        return None
    if str in kinds:
        return text
    value = text.split(",") if typing.get_origin(hint) is tuple else text
    try:
        return msgspec.convert(value, hint, strict=False)
    except msgspec.ValidationError:
        raise UsageError(f"--set {key}={text} cannot be read: it must be {in_words(hint)}.") from None
