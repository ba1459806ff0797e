"""The built-in recipes by name, and what each is for. Knows nothing of weights: a help page needs no more."""

from __future__ import annotations

from pathlib import Path

from edge_lfm.formats.strict import read_toml

DEFAULT_RECIPE = "balanced"
_FOLDER = Path(__file__).parent / "recipes"


def recipe_names() -> tuple[str, ...]:
    """The built-in recipes, the default first."""
    names = sorted(path.stem for path in _FOLDER.glob("*.toml"))
    return (DEFAULT_RECIPE, *(name for name in names if name != DEFAULT_RECIPE))


def recipe_path(name: str) -> Path:
    """The file of a built-in recipe."""
    return _FOLDER / f"{name}.toml"


def summary_of(name: str) -> str:
    """What a built-in recipe is for, in a phrase."""
    return str(read_toml(recipe_path(name))["summary"])
