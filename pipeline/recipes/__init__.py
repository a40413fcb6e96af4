"""Recipes: published protocols as flags of ``extract`` and ``distill``, with what is known of them and what is ours.

A recipe is a TOML file beside this one. It has `about`, `known` and `ours` (sentences), and the tables `teacher` (flags
of ``distill`` that train the teacher), `extract` and `distill`. With `extends` it takes over another recipe's flags and
changes those that it names; what is known and what is ours is said anew in each file.
"""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ...stores.errors import unknown

PARTS = ("teacher", "extract", "distill")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One protocol.

    Attributes:
        name: its file's, without the suffix.
        about: what it is, with its source.
        known: what the source says.
        ours: what the source does not say, and we chose.
        parts: the flags of each part.
    """

    name: str
    about: str
    known: tuple[str, ...]
    ours: tuple[str, ...]
    parts: dict[str, dict[str, Any]]


def recipe_names() -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(path.name.removesuffix(".toml") for path in files(__name__).iterdir() if path.name.endswith(".toml"))


def load_recipe(name: str) -> Recipe:
    """Read a recipe.

    Raises:
        UsageError: there is none of that name.
    """
    names = recipe_names()
    if name not in names:
        raise unknown("recipe", name, names)
    content = tomllib.loads(files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    parts = {part: dict(content.get(part, {})) for part in PARTS}
    if (base := content.get("extends")) is not None:
        under = load_recipe(base)
        parts = {part: {**under.parts[part], **parts[part]} for part in PARTS}
    known, ours = tuple(content["known"]), tuple(content["ours"])
    return Recipe(name=name, about=content["about"], known=known, ours=ours, parts=parts)
