"""What would fit where a model does not: the model in another recipe, else another model.

Reckons with the plan that loading follows; knows no files.
"""

from __future__ import annotations

from edge_lfm.architectures import read_shape
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.plan import MemoryPlan, Wishes, plan_memory
from edge_lfm.model.demand import planned_demand
from edge_lfm.model.plan import Schemes
from edge_lfm.quantize.families import SMALLER, family_config
from edge_lfm.quantize.recipe import find_recipe, recipes_for
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE
from edge_lfm.shape import Shape


def what_fits(shape: Shape, budget: Budget, wishes: Wishes) -> str:
    """What to run in place of a model that does not fit, as a hint of its error."""
    recipe = recipe_that_fits(shape, budget, wishes)
    if recipe is not None:
        return f"quantized with --recipe {recipe} it fits"
    name = model_that_fits(budget, wishes)
    return f"no recipe makes it fit, {name} does" if name else "it needs more memory or a smaller --context"


def recipe_that_fits(shape: Shape, budget: Budget, wishes: Wishes) -> str | None:
    """The default recipe if a model fits with it, else that of the most bits with which it does; None: with none."""
    plans = {name: _plan(shape, find_recipe(name).schemes, budget, wishes) for name in recipes_for(shape)}
    fitting = [name for name, plan in plans.items() if plan.missing_bytes == 0]
    if not fitting or DEFAULT_RECIPE in fitting:
        return DEFAULT_RECIPE if fitting else None
    return max(fitting, key=lambda name: plans[name].needed_bytes)


def model_that_fits(budget: Budget, wishes: Wishes) -> str | None:
    """The largest of the published models for small machines that fits, in the default recipe."""
    schemes = find_recipe(DEFAULT_RECIPE).schemes
    shapes = {name: read_shape(family_config(name)) for name in SMALLER}
    plans = {name: _plan(shape, schemes, budget, wishes) for name, shape in shapes.items()}
    return next((name for name, plan in plans.items() if plan.missing_bytes == 0), None)


def _plan(shape: Shape, schemes: Schemes, budget: Budget, wishes: Wishes) -> MemoryPlan:
    return plan_memory(shape, planned_demand(shape, schemes), budget, wishes)
