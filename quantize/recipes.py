"""Recipes: which scheme and which rounding each class of tensors gets. What `--scheme` chooses from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_lfm.errors import UsageError
from edge_lfm.kernels.ref import F32, Quantized
from edge_lfm.model.plan import TENSOR_CLASSES, Schemes
from edge_lfm.quantize import rounding

Round = Callable[[F32], Quantized]


@dataclass(frozen=True)
class Recipe:
    """`scheme` for every class but the embedding, which is also the head and keeps 8 bits."""

    name: str
    scheme: str
    embedding: str
    round_4bit: Round = rounding.int4
    summary: str = ""

    @property
    def schemes(self) -> Schemes:
        by_class = {kind: self.embedding if kind == "embedding" else self.scheme for kind in TENSOR_CLASSES}
        return Schemes(self.name, by_class)

    def rounding(self, scheme: str) -> Round:
        """The function that turns float32 rows into the integers of a scheme."""
        return {"int8_g32": rounding.int8, "int4_g32": self.round_4bit}[scheme]


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("int4", "int4_g32", "int8_g32", summary="4-bit weights, scales searched; 8-bit embedding (default)"),
        Recipe("int8", "int8_g32", "int8_g32", summary="8-bit weights: twice the size, all but lossless"),
        Recipe("q4_0", "int4_g32", "int8_g32", rounding.q4_0, summary="ggml's plain 4-bit grid, as a yardstick"),
        Recipe("float32", "float32", "float32", summary="no loss: the reference of every evaluation"),
    )
}


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        UsageError: there is none.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        raise UsageError(f"unknown scheme '{name}'", hint=f"choose one of {', '.join(RECIPES)}")
    return recipe
