"""A broken number in any weight ends a step in NumericalError, and never in another text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.runner import Runner
from edge_lfm.errors import NumericalError
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.schemes import SCHEMES
from edge_lfm.model.packed_model import PackedModel

pytestmark = pytest.mark.slow

PROMPT, NEXT = [3, 9, 4, 7, 3, 8, 6, 2, 5, 3], [3]
"""Token 3 is in every step: its row of the embedding is used."""
ATTENTION, CONV, SPARSE = "model.layers.1", "model.layers.0", "model.layers.2"
RECIPES = ("float32", "int8", "balanced")
SCALE_AT = {"float32": (0, "<f4"), "int8_g32": (512, "<f2"), "codebook4_g32": (0, "<f4"), "codebook4_g16": (0, "<f4")}
"""Where the first tile of 16 rows keeps a number of its row 0, as `spec/tiles.py` packs it: a weight, the scale of the
first group, the scale of the row."""


@dataclass(frozen=True)
class Weight:
    """A number that every step uses. case: of the golden models; row: of the matrix; w2: the block's second matrix;
    bias: a number of the block's biases, those of w1 and w3 16 in turn."""

    case: str
    piece: str  # as a part of the name
    row: int = 0
    w2: bool = False
    bias: int | None = None


WEIGHTS = {
    "embedding": Weight("moe", "embed_tokens.weight", row=3),
    "head": Weight("dense-untied", "lm_head.weight"),
    "final norm": Weight("moe", "embedding_norm.weight"),
    "operator norm": Weight("moe", f"{ATTENTION}.operator_norm.weight"),
    "ffn norm": Weight("moe", f"{SPARSE}.ffn_norm.weight"),
    "q": Weight("moe", f"{ATTENTION}.self_attn.qkv_proj"),
    "k": Weight("moe", f"{ATTENTION}.self_attn.qkv_proj", row=64),
    "v": Weight("moe", f"{ATTENTION}.self_attn.qkv_proj", row=96),
    "q norm": Weight("moe", f"{ATTENTION}.self_attn.q_layernorm"),
    "k norm": Weight("moe", f"{ATTENTION}.self_attn.k_layernorm"),
    "attention out": Weight("moe", f"{ATTENTION}.self_attn.out_proj"),
    "conv in": Weight("moe", f"{CONV}.conv.in_proj.weight"),
    "conv taps": Weight("moe", f"{CONV}.conv.conv.weight"),
    "conv out": Weight("moe", f"{CONV}.conv.out_proj.weight"),
    "conv in bias": Weight("dense-conv-bias", f"{CONV}.conv.in_proj.bias"),
    "conv bias": Weight("dense-conv-bias", f"{CONV}.conv.conv.bias"),
    "conv out bias": Weight("dense-conv-bias", f"{CONV}.conv.out_proj.bias"),
    "router": Weight("moe", f"{SPARSE}.feed_forward.gate"),
    "expert bias": Weight("moe", f"{SPARSE}.feed_forward.expert_bias"),
    "expert w1": Weight("moe", f"{SPARSE}.feed_forward.experts."),
    "expert w3": Weight("moe", f"{SPARSE}.feed_forward.experts.", row=16),  # its tiles are in turn with w1's
    "expert w2": Weight("moe", f"{SPARSE}.feed_forward.experts.", w2=True),
    "dense w1": Weight("moe", f"{CONV}.feed_forward.block"),
    "dense w3": Weight("moe", f"{CONV}.feed_forward.block", row=16),
    "dense w2": Weight("moe", f"{CONV}.feed_forward.block", w2=True),
    "sink": Weight("gpt_oss", f"{ATTENTION}.self_attn.sinks"),
    "attention out bias": Weight("gpt_oss", f"{ATTENTION}.self_attn.out_proj.bias"),
    "router bias": Weight("gpt_oss", f"{SPARSE}.feed_forward.gate.bias"),
    "w1 bias": Weight("gpt_oss", f"{SPARSE}.feed_forward.experts.", bias=0),
    "w3 bias": Weight("gpt_oss", f"{SPARSE}.feed_forward.experts.", bias=16),
    "w2 bias": Weight("gpt_oss", f"{SPARSE}.feed_forward.experts.", bias=2 * 32),
    "clamped w1": Weight("gpt_oss", f"{SPARSE}.feed_forward.experts."),
    "clamped w3": Weight("gpt_oss", f"{SPARSE}.feed_forward.experts.", row=16),
}
CLAMPED = {"w1 bias", "w3 bias", "clamped w1", "clamped w3"}
HARMLESS_WHEN_LARGE = {"head", "final norm", "router", "expert bias", "expert w1", "dense w1", "q norm"}
HARMLESS_WHEN_LARGE |= {"sink", "router bias"} | CLAMPED
"""Where 1e30 may give finite numbers that are right: a gate's silu may be 0, a softmax or a router may be sure, a clamp
may take off what is beyond it."""


def place_of(model: PackedModel, name: str, weight: Weight) -> tuple[int, str]:
    """Offset in the file, and dtype, of the number to be broken in one piece."""
    piece, at = model.tensors[name], model.offset_of(name)
    if piece.floats is not None:
        return at, "<f4"
    if weight.bias is not None:
        return at + piece.bias_offset + 4 * weight.bias, "<f4"
    matrix = piece.matrices[1 if weight.w2 else 0]
    scheme = SCHEMES[matrix.scheme]
    if weight.w2:
        at += piece.matrices[0].nbytes
    within, dtype = SCALE_AT[matrix.scheme]
    width = np.dtype(dtype).itemsize
    return at + weight.row // 16 * scheme.tile_bytes(matrix.cols) + within + weight.row % 16 * width, dtype


@pytest.fixture(scope="module")
def copies(
    packed_cases: dict[str, dict[str, Path]], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Path]:
    """Copies of packed models, to be broken and mended again."""
    base, made = tmp_path_factory.mktemp("broken"), {}
    for recipe in RECIPES:
        for case in {weight.case for weight in WEIGHTS.values()}:
            made[recipe, case] = base / recipe / case
            shutil.copytree(packed_cases[recipe][case], made[recipe, case])
    return made


@contextmanager
def broken(folder: Path, weight: Weight, value: float) -> Iterator[PackedModel]:
    """The model with a broken number; then it is mended."""
    file = np.memmap(folder / "model.safetensors", np.uint8, "r+")
    before = file.copy()
    with PackedModel(folder) as model:
        places = [place_of(model, name, weight) for name in model.tensors if weight.piece in name]
    assert places
    for at, dtype in places:
        with np.errstate(over="ignore"):
            number = np.array([value]).astype(dtype).view(np.uint8)
        file[at : at + number.size] = number
    file.flush()
    try:
        with PackedModel(folder) as model:
            yield model
    finally:
        file[:] = before
        file.flush()


def outcomes(folder: Path, weight: Weight, value: float, kv_dtype: str) -> list[np.ndarray | None]:
    """Logits of the prefill, and of a decoded token after a sound prefill; None for a NumericalError."""
    found: list[np.ndarray | None] = []
    with PackedModel(folder) as model, Runner(model, load_kernels(), 1) as runner:
        states = [runner.new_state(64, kv_dtype) for _ in range(2)]
        runner.run([Feed(states[1], PROMPT)])
    with broken(folder, weight, value) as model, Runner(model, load_kernels(), 1) as runner:
        for state, ids in zip(states, (PROMPT, NEXT), strict=True):
            try:
                found.append(runner.run([Feed(state, ids)])[0])
            except NumericalError:
                found.append(None)
    return found


@pytest.mark.parametrize("kv_dtype", ["float16", "int8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_broken_number_is_told(
    name: str, recipe: str, value: float, kv_dtype: str, copies: dict[tuple[str, str], Path]
) -> None:
    weight = WEIGHTS[name]
    for logits in outcomes(copies[recipe, weight.case], weight, value, kv_dtype):
        if logits is not None:
            assert value == 1e30 and name in HARMLESS_WHEN_LARGE
            assert np.isfinite(logits).all() and len(np.unique(logits)) > 10


def test_the_models_are_sound(copies: dict[tuple[str, str], Path]) -> None:
    """What is broken above is what makes the difference."""
    for folder in copies.values():
        with PackedModel(folder) as model, Runner(model, load_kernels(), 1) as runner:
            assert np.isfinite(runner.run([Feed(runner.new_state(64), PROMPT)])[0]).all()
