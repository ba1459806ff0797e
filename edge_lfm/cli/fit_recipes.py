"""What the built-in recipes read and lose, and which serves a device best: the fastest within a stated loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_lfm.cli.arguments import gigabytes, progress_bar
from edge_lfm.devices.estimate import Fit
from edge_lfm.kernels.spec.isa import find_isa
from edge_lfm.model.demand import planned_demand
from edge_lfm.model.plan import Schemes
from edge_lfm.quantize.recipe import Recipe, find_recipe, recipes_for
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE
from edge_lfm.shape import Shape

AS_FAST = 0.98
"""Recipes of at least this share of the best speed count as equal: the one with the least loss wins."""


@dataclass(frozen=True)
class Choice:
    """What a recipe would give. loss: KL divergence over Q4_0's, with a calibration; refused: why it is out of the
    question, or ""."""

    recipe: str
    loss: float
    file_bytes: int
    decode_tps: float
    prefill_tps: float
    fits: bool
    refused: str


def weigh_recipes(shape: Shape, speed: Callable[[Schemes], tuple[int, Fit]], isa: str, max_loss: float) -> list[Choice]:
    """Every built-in recipe that the model can have and whose loss was measured, in rising order of it.

    speed: of schemes the file size, and what to expect on the device; isa: the device's tier.
    """
    choices = []
    recipes = [(loss, recipe) for loss, recipe in measured_recipes(shape) if not recipe.plain]
    advance = progress_bar("weighing recipes", "recipe")(len(recipes))  # MiniMax-M2: two seconds each
    for loss, recipe in recipes:
        advance(1)
        file_bytes, fit = speed(recipe.schemes)
        refused = too_slow(recipe.schemes, isa) or (f"loses more than {max_loss:g}" if loss > max_loss else "")
        choices.append(Choice(recipe.name, loss, file_bytes, fit.decode_tps, fit.prefill_tps, fit.fits, refused))
    return choices


def measured_recipes(shape: Shape) -> list[tuple[float, Recipe]]:
    """The built-in recipes for a model with a measured loss, in rising order of it."""
    recipes = [find_recipe(name) for name in recipes_for(shape)]
    return sorted(
        ((recipe.loss, recipe) for recipe in recipes if recipe.loss is not None), key=lambda measured: measured[0]
    )


def frontier(shape: Shape) -> dict[str, tuple[int, float]]:
    """Of each of them what a token reads of a model, in bytes, and the loss."""
    return {
        recipe.name: (planned_demand(shape, recipe.schemes).bytes_per_token, loss)
        for loss, recipe in measured_recipes(shape)
    }


def too_slow(schemes: Schemes, isa: str) -> str:
    """Why a tier cannot decode a recipe at the speed of memory, or ""."""
    slow = sorted(set(schemes.by_class.values()) & set(find_isa(isa).slow_schemes))
    return f"{', '.join(slow)} decodes slower than memory on {isa}" if slow else ""


def best_recipe(choices: list[Choice]) -> str:
    """The fastest that fits and is not refused; the default if there is none."""
    able = [choice for choice in choices if choice.fits and not choice.refused]
    enough = AS_FAST * max((choice.decode_tps for choice in able), default=0.0)
    return next((choice.recipe for choice in able if choice.decode_tps >= enough), DEFAULT_RECIPE)


def lines_of(choices: list[Choice], chosen: str) -> list[str]:
    """The table, a line for each recipe; nothing where there was no choice."""
    if not choices:
        return []
    lines = ["recipes, with a calibration; loss: KL divergence over Q4_0's (docs/quality.md)"]
    for choice in choices:
        said = f"{choice.decode_tps:5.1f} tok/s, prefill {choice.prefill_tps:.0f}" if choice.fits else "does not fit"
        notes = "  <" if choice.recipe == chosen else f"  {choice.refused}" if choice.refused else ""
        lines.append(f"  {choice.recipe:9}{gigabytes(choice.file_bytes):>9}  loss {choice.loss:.2f}  {said}{notes}")
    return lines
