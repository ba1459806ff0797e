"""What recipes read and lose of a model, and which serves a device best: the fastest within a stated loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edge_lfm.cli.arguments import gigabytes, progress_bar
from edge_lfm.devices.estimate import Fit
from edge_lfm.kernels.spec.isa import find_isa
from edge_lfm.model.demand import planned_demand
from edge_lfm.model.plan import Schemes
from edge_lfm.quantize.recipe import LIKE_SOURCE, Recipe, find_recipe, recipes_for, recipes_that_keep
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE
from edge_lfm.shape import Shape

AS_FAST = 0.98
"""Recipes of at least this share of the best speed count as equal: the one with the least loss wins."""


@dataclass(frozen=True)
class Choice:
    """What a recipe would give. loss: KL divergence over Q4_0's, with a calibration; refused: why it is out of the
    question, or ""; kept: whether experts stay as they were published."""

    recipe: str
    loss: float
    file_bytes: int
    decode_tps: float
    prefill_tps: float
    fits: bool
    refused: str
    kept: bool = False


def weigh_recipes(
    recipes: Sequence[Recipe],
    speed: Callable[[Schemes], tuple[int, Fit]],
    isa: str,
    max_loss: float,
    published: str | None,
) -> list[Choice]:
    """What each recipe would give, in rising order of loss, without those that have none or are yardsticks.

    speed: of schemes the file size, and what to expect on the device; isa: the device's tier; published: the scheme
    that the model's experts have as published.
    """
    choices = []
    measured = in_order([recipe for recipe in recipes if not recipe.plain])
    advance = progress_bar("weighing recipes", "recipe")(len(measured))  # MiniMax-M2: two seconds each
    for loss, recipe in measured:
        advance(1)
        file_bytes, fit = speed(recipe.schemes)
        refused = too_slow(recipe.schemes, isa) or (f"loses more than {max_loss:g}" if loss > max_loss else "")
        kept = recipe.schemes.by_class["experts"] == published
        choices.append(Choice(recipe.name, loss, file_bytes, fit.decode_tps, fit.prefill_tps, fit.fits, refused, kept))
    return choices


def recipes_of(shape: Shape, published: str | None) -> list[Recipe]:
    """The built-in recipes that a model can have; and those that keep its experts as published, if there are such."""
    kept = () if published is None else recipes_that_keep(published)
    names = {recipe.name for recipe in kept}
    return [*kept, *(find_recipe(name) for name in recipes_for(shape) if name not in names)]


def in_order(recipes: Iterable[Recipe]) -> list[tuple[float, Recipe]]:
    """Recipes with a measured loss, in rising order of it."""
    measured = [(recipe.loss, recipe) for recipe in recipes if recipe.loss is not None]
    return sorted(measured, key=lambda known: known[0])


def frontier(shape: Shape) -> dict[str, tuple[int, float]]:
    """Of each of them what a token reads of a model, in bytes, and the loss."""
    return {
        recipe.name: (planned_demand(shape, recipe.schemes).bytes_per_token, loss)
        for loss, recipe in in_order(recipes_of(shape, None))
    }


def too_slow(schemes: Schemes, isa: str) -> str:
    """Why a tier cannot decode a recipe at the speed of memory, or ""."""
    slow = sorted(set(schemes.by_class.values()) & set(find_isa(isa).slow_schemes))
    return f"{', '.join(slow)} decodes slower than memory on {isa}" if slow else ""


def best_recipe(choices: list[Choice]) -> str:
    """The fastest that fits and is not refused, of those that keep experts as published if one does; if there is none,
    what is taken where none is named. What was rounded to four bits already is not rounded again unasked."""
    able = [choice for choice in choices if choice.fits and not choice.refused]
    able = [choice for choice in able if choice.kept] or able
    enough = AS_FAST * max((choice.decode_tps for choice in able), default=0.0)
    unnamed = LIKE_SOURCE if any(choice.recipe == LIKE_SOURCE for choice in choices) else DEFAULT_RECIPE
    return next((choice.recipe for choice in able if choice.decode_tps >= enough), unnamed)


def lines_of(choices: list[Choice], chosen: str) -> list[str]:
    """The table, a line for each recipe; nothing where there was no choice."""
    if not choices:
        return []
    lines = ["recipes, with a calibration; loss: KL divergence over Q4_0's (docs/quality.md)"]
    width = max(9, *(1 + len(choice.recipe) for choice in choices))
    for choice in choices:
        said = f"{choice.decode_tps:5.1f} tok/s, prefill {choice.prefill_tps:.0f}" if choice.fits else "does not fit"
        notes = "  <" if choice.recipe == chosen else f"  {choice.refused}" if choice.refused else ""
        notes += "  experts as published" if choice.kept else ""
        name = f"{choice.recipe:{width}}{gigabytes(choice.file_bytes):>9}"
        lines.append(f"  {name}  loss {choice.loss:.2f}  {said}{notes}")
    if any(choice.recipe == LIKE_SOURCE for choice in choices):
        lines.append(f"  {LIKE_SOURCE} is what `edge-lfm quantize` does without --recipe")
    return lines
