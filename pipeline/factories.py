"""Factories a user names on the command line: ``python:package.module:function,key=value``.

The code runs with the user's rights, which is why it is only ever reached from a spec the user typed: a store
may record such a spec, but nothing imports it from there.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..stores.errors import KdpipeError, UsageError, unknown


def import_attribute(
    location: str, what: str = "function", fits: Callable[[Any], bool] = callable
) -> Callable[..., Any]:
    """The callable that ``package.module:name`` names; the working directory is searched first.

    Args:
        location: ``package.module:name``.
        what: what is wanted, for messages.
        fits: whether a value of the module is one, and is suggested where there is none of the name.

    Raises:
        UsageError: the location is not of that form, there is no such module, or nothing callable of
            that name in it.
        KdpipeError: the module exists and fails while it is imported.
    """
    module_name, _, attribute = location.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise UsageError(f"'python:{location}' does not name a {what}. Write python:package.module:{what}.")
    module = _import_module(module_name)
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [name for name, value in vars(module).items() if fits(value) and name[:1] != "_"]
        raise unknown(f"{what} of the module '{module_name}'", attribute, public)
    return found


def call_factory(
    location: str, options: Mapping[str, str], offered: Mapping[str, Any], beside: Iterable[str] = ()
) -> Any:
    """Call the factory at ``location`` and return what it returns.

    Args:
        location: ``package.module:name``.
        options: the spec's options; each is passed by keyword, as an int, a float or a bool where its text
            reads as one, and otherwise as the text.
        offered: values the caller knows; each is passed only if the factory has a parameter of its name and
            the options do not give it.
        beside: options of the spec that the caller reads itself: listed where one is unknown.

    Raises:
        UsageError: the factory is not found, or does not take these options.
        KdpipeError: the factory raised an exception.
    """
    factory = import_attribute(location)
    parameters = named_parameters(factory)
    arguments = {key: value for key, value in offered.items() if key in parameters}
    arguments |= {key: convert(text) for key, text in options.items()}
    _check_arguments(location, factory, arguments, beside)
    try:
        return factory(**arguments)
    except KdpipeError:
        raise
    except Exception as error:
        raise KdpipeError(_raised(f"The factory {location}", error)) from error


def named_parameters(factory: Callable[..., Any]) -> set[str]:
    """The parameters that can be passed by name; empty where Python cannot tell (some built-ins)."""
    signature = _signature(factory)
    if signature is None:
        return set()
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name for name, parameter in signature.parameters.items() if parameter.kind in by_name}


def convert(text: str) -> int | float | bool | str:
    """An option's text as the value it reads as: ``3``, ``0.5``, ``true``; anything else stays text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if not any(character.isdigit() for character in text):  # "nan" and "infinity" are words here
        return text
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _import_module(name: str) -> ModuleType:
    # The installed `kdpipe` script does not put the working directory on the path, unlike `python -m`.
    working_directory = str(Path.cwd())
    if working_directory not in sys.path:
        sys.path.insert(0, working_directory)
    importlib.invalidate_caches()  # a file written a moment ago may be missing from the finder's listing
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only the named module or a parent of it is the user's typing error; others are its own imports.
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"There is no Python module '{name}'. Searched from {working_directory}; check the name, or "
                "run from the folder that holds it."
            ) from error
        raise KdpipeError(_raised(f"Importing the module {name}", error)) from error
    except Exception as error:
        raise KdpipeError(_raised(f"Importing the module {name}", error)) from error


def _signature(factory: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(factory)
    except (TypeError, ValueError):
        return None


def _check_arguments(
    location: str, factory: Callable[..., Any], arguments: Mapping[str, Any], beside: Iterable[str]
) -> None:
    """Refuse what the signature cannot take, before the call: a TypeError from inside is the factory's."""
    signature = _signature(factory)
    if signature is None:
        return
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        known = named_parameters(factory)
        for key in arguments:
            if key not in known:
                raise unknown(f"option of 'python:{location}'", key, {*known, *beside})
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise UsageError(
            f"The factory {location}{signature} cannot be called: {error}. Give it as an option: name=value."
        ) from error


def _raised(what: str, error: Exception) -> str:
    return f"{what} raised {type(error).__name__}: {error}"
