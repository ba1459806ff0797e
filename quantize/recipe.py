"""Recipes: which scheme each class of tensors gets, and how it is rounded. TOML files, built in or the user's own.

[schemes]            # one for each class: experts, ffn, conv, attention, embedding
experts = "code3_g32"
experts_down = "codebook4_g32"    # optional, as is ffn_down: w2, where it has another scheme than w1 and w3
[rounding]           # optional
plain = true         # ggml's Q4_0 grid for int4_g32, without a search
[measured]           # optional, of built-in recipes (docs/quality.md)
loss = 0.33          # KL divergence over Q4_0's, demo model, seven texts, with a calibration where it is used
trunk_loss = 0.24    # the same where experts are kept exactly
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from edge_lfm.errors import ModelFileError, UnsupportedModelError, UsageError
from edge_lfm.formats.strict import read_toml
from edge_lfm.kernels.spec.schemes import INT8_G32, SCHEMES, scheme_like
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import OPTIONAL_CLASSES, TENSOR_CLASSES, PackedTensor, Schemes, plan_tensors
from edge_lfm.quantize.recipe_files import DEFAULT_RECIPE, recipe_names, recipe_path
from edge_lfm.shape import Shape

_LARGE_KINDS = ("Q8", "Q6", "Q5")
LIKE_SOURCE = "like-source"
"""The name of a recipe that follows a checkpoint's own quantization: what `quantize` takes where none is named."""
_MEASURED = ("loss", "trunk_loss")
_ROUNDING = ("plain", "feedback")  # the latter in recipes of earlier versions: every calibration is fed back now


@dataclass(frozen=True)
class Recipe:
    """A recipe as read; `plain`, `loss` and `trunk_loss` as in the file."""

    name: str
    summary: str
    schemes: Schemes
    plain: bool = False
    loss: float | None = None
    trunk_loss: float | None = None

    def to_json(self) -> dict[str, Any]:
        """What decides the packed bytes."""
        decides = asdict(self) | {"schemes": dict(self.schemes.by_class)}
        for key in _MEASURED:
            del decides[key]
        return decides


@lru_cache(maxsize=64)
def recipes_for(shape: Shape) -> tuple[str, ...]:
    """The built-in recipes whose schemes can hold the matrices of a model, the default first."""
    return tuple(name for name in recipe_names() if _can_hold(shape, find_recipe(name).schemes))


def _can_hold(shape: Shape, schemes: Schemes) -> bool:
    try:
        plan_tensors(shape, schemes)
    except UnsupportedModelError:
        return False
    return True


def find_recipe(name: str) -> Recipe:
    """The built-in recipe of that name, or the one in the file of that name (`*.toml`).

    Raises:
        UsageError: there is none, or it names an unknown class or scheme.
    """
    path = Path(name) if name.endswith(".toml") else recipe_path(name)
    if not name.endswith(".toml") and name not in recipe_names():
        raise UsageError(f"unknown recipe '{name}'", hint=f"choose one of {', '.join(recipe_names())}, or a .toml file")
    try:
        content = read_toml(path)
    except ModelFileError as error:
        raise UsageError(f"recipe {error.message}", hint="is it a TOML file?") from None
    return _parse(content, path)


def recipe_like(weights: CheckpointWeights, tensors: Sequence[PackedTensor]) -> Recipe:
    """The recipe that loses nothing, or least, of a checkpoint's own quantization; the default for all else.

    What most weights of a class are decides. Blocks that a scheme holds are kept as they are; others are rounded a
    second time, those of 4 bits or less as the default recipe does, those of more to 8 bits.
    """
    usual = find_recipe(DEFAULT_RECIPE)
    by_class = dict(usual.schemes.by_class)
    for kind in TENSOR_CLASSES:
        stored: Counter[str] = Counter()
        for source in (source for tensor in tensors if tensor.kind == kind for source in tensor.sources):
            stored[weights.kind(source.name)] += math.prod(source.shape)
        most = stored.most_common(1)[0][0] if stored else ""
        same = scheme_like(most)
        if same:
            by_class[kind] = same.name
        elif most.startswith(_LARGE_KINDS):
            by_class[kind] = INT8_G32.name
    if by_class == usual.schemes.by_class:
        return usual
    return _like_source(by_class)


def recipes_that_keep(experts: str) -> tuple[Recipe, ...]:
    """What keeps experts of a scheme as a checkpoint has them; loss: of all else, theirs being none. The first is
    what `recipe_like` makes of such a checkpoint."""
    usual = find_recipe(DEFAULT_RECIPE)
    first = replace(_like_source({**usual.schemes.by_class, "experts": experts}), loss=usual.trunk_loss)
    built_in = (find_recipe(name) for name in recipe_names())
    return (first, *(replace(r, loss=r.trunk_loss) for r in built_in if r.schemes.by_class["experts"] == experts))


def _like_source(by_class: Mapping[str, str]) -> Recipe:
    return Recipe(LIKE_SOURCE, "as the source is quantized", Schemes(LIKE_SOURCE, dict(by_class)))


def _parse(content: Mapping[str, Any], path: Path) -> Recipe:
    _check_keys(content, ("summary", "schemes", "rounding", "measured"), path, "a recipe")
    by_class, rounding, measured = (content.get(key, {}) for key in ("schemes", "rounding", "measured"))
    if not all(isinstance(table, dict) for table in (by_class, rounding, measured)):
        raise UsageError(
            f"recipe {path}: [schemes], [rounding] and [measured] must be tables", hint="see quantize/recipes/*.toml"
        )
    kinds = (*TENSOR_CLASSES, *(kind for kind in OPTIONAL_CLASSES if kind in by_class))
    _check_keys(by_class, (*TENSOR_CLASSES, *OPTIONAL_CLASSES), path, "[schemes]")
    _check_keys(rounding, _ROUNDING, path, "[rounding]")
    _check_keys(measured, _MEASURED, path, "[measured]")
    for kind in kinds:
        name = by_class.get(kind)
        if not isinstance(name, str) or name not in SCHEMES:
            what = f"the unknown scheme {name!r:.80}" if kind in by_class else "no scheme"
            raise UsageError(f"recipe {path}: class {kind} has {what}", hint=f"choose one of {', '.join(SCHEMES)}")
    for key, value in rounding.items():
        if not isinstance(value, bool):
            raise UsageError(f"recipe {path}: {key} is {value!r:.80}", hint="it must be true or false")
    for key, loss in measured.items():
        if not (isinstance(loss, float) and 0 <= loss < math.inf):
            raise UsageError(f"recipe {path}: {key} is {loss!r:.80}", hint="it must be a number, as 0.33")
    schemes = Schemes(path.stem, {kind: by_class[kind] for kind in kinds})
    return Recipe(path.stem, str(content.get("summary", "")), schemes, rounding.get("plain", False), **measured)


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], path: Path, where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"recipe {path}: {where} has no {key!r:.80}", hint=f"it knows {', '.join(known)}")
