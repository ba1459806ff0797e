"""Drafters for tests: random ones in the published layout, and scripted ones that are right as often as is asked."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from conftest import ROOT
from safetensors.numpy import save_file

from edge_lfm.model.packed_model import PackedModel
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe


def _load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_drafter_goldens", ROOT / "tools/make_drafter_goldens.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool = _load_tool()


def write_drafter(folder: Path, config: dict[str, Any]) -> Path:
    """A random drafter as it would be published."""
    folder.mkdir(parents=True)
    save_file(tool.tensors_of(config), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def drafter_config(target: Path, case: str = "two-layers", taps: Sequence[int] | None = None) -> dict[str, Any]:
    """The config of a random drafter for a packed model."""
    with PackedModel(target) as model:
        shape = model.shape
    layers = len(shape.layers)
    section = {"mask_token_id": 3, "num_target_layers": layers}
    section |= {"target_layer_ids": sorted({0, layers // 2, layers - 1}) if taps is None else list(taps)}
    sizes = {"hidden_size": shape.hidden, "vocab_size": shape.vocab, "max_position_embeddings": 4096}
    return tool.config_of(case) | sizes | {"dflash_config": section}


def packed_drafter(base: Path, target: Path, recipe: str = "balanced", case: str = "two-layers") -> Path:
    """A random drafter, packed for a model."""
    source = write_drafter(base / f"{case}-{recipe}-source", drafter_config(target, case))
    convert(source, base / f"{case}-{recipe}", find_recipe(recipe), target=target)
    return base / f"{case}-{recipe}"


class Scripted:
    """A `Drafter` that knows the answer, and gives each of its tokens rightly with the chance `right`."""

    def __init__(self, answer: Sequence[int], right: float, count: int, seed: int = 0) -> None:
        self._answer, self._right, self._count, self._done = answer, right, count, 0
        self._draws = np.random.default_rng(seed)

    def extend(self, token: int) -> None:
        self._done += 1

    def propose(self, count: int) -> list[int]:
        known = self._answer[self._done : self._done + min(count, self._count)]
        return [token if self._draws.random() < self._right else (token + 1) % 64 for token in known]


def rounds_of(answer: Sequence[int], right: float, count: int, seed: int = 0) -> tuple[int, int]:
    """Steps after the first token that an answer takes with a `Scripted` drafter, and the drafts that are accepted."""
    script, done, steps, accepted = Scripted(answer, right, count, seed), 1, 0, 0
    script.extend(answer[0])
    while done < len(answer):
        drafts = script.propose(count)
        agreed = 0
        while agreed < len(drafts) and drafts[agreed] == answer[done + agreed]:
            agreed += 1
        gained = min(agreed + 1, len(answer) - done)
        for token in answer[done : done + gained]:
            script.extend(token)
        done, steps, accepted = done + gained, steps + 1, accepted + min(agreed, gained)
    return steps, accepted
