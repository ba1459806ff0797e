"""The tiny random models as GGUF files, beside what two builds of llama.cpp compute from the same files.

`tools/make_llama_case_goldens.py` makes the numbers: log-probabilities after the last tokens of each case's prompt.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, GOLDEN_CASES, goldens_tool, write_checkpoint

from edge_lfm import Model
from edge_lfm.export.gguf import write_gguf
from edge_lfm.export.source import open_source
from edge_lfm.formats.gguf_checkpoint import GgufCheckpoint
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.reference import ReferenceModel
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe

TOLERANCE = 1e-4  # of the largest log-probability, as between the reference and transformers
FLOAT16_STEP = 2.0**-11  # of a key or a value: the compiled engine keeps both in float16

with np.load(DATA / "llama_cases.npz") as _file:
    GOLDENS = dict(_file)
ALL_CASES = GOLDEN_CASES | goldens_tool.LLAMA_CASES
LATENT = ("glm4_moe_lite", "deepseek_v3")
CASES = sorted({name.partition(".")[2] for name in GOLDENS})


def test_every_architecture_has_its_goldens() -> None:
    seen = {
        build: {ALL_CASES[case]["model_type"] for case in CASES if f"{build}.{case}" in GOLDENS}
        for build in ("native", "wasm")
    }
    assert seen["native"] >= {"lfm2", "lfm2_moe", "qwen2", "qwen3", "qwen3_moe", "olmoe", *LATENT}
    assert seen["wasm"] >= seen["native"]


@pytest.fixture
def file(case: str, case_checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    """The case as a GGUF file with float32 weights."""
    alone = goldens_tool.LLAMA_CASES.get(case)
    folder = write_checkpoint(tmp_path / "checkpoint", alone) if alone else case_checkpoints[case]
    with open_source(folder) as source:
        write_gguf(source, tmp_path / "m.gguf", "f32")
    return tmp_path / "m.gguf"


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    return logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)


def farthest(case: str, logits: np.ndarray) -> float:
    """The largest difference from a build of llama.cpp, as a share of the largest log-probability."""
    known = [GOLDENS[name] for name in (f"native.{case}", f"wasm.{case}") if name in GOLDENS]
    found = log_probabilities(logits)[-len(known[0]) :]
    return max(float(np.abs(found - golden).max() / np.abs(golden).max()) for golden in known)


@pytest.mark.parametrize("case", CASES)
def test_the_reference_computes_what_llama_cpp_computes(case: str, file: Path) -> None:
    with GgufCheckpoint(file) as checkpoint:
        shape = checkpoint.describe()
        weights = CheckpointWeights(checkpoint, shape, plan_tensors(shape, find_recipe("float32").schemes))
        logits = ReferenceModel(shape, weights).logits(goldens_tool.token_ids(case))
    assert farthest(case, logits) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_the_engine_computes_what_llama_cpp_computes(case: str, file: Path, tmp_path: Path) -> None:
    """Where float16 keys and values turn a near tie of experts, the reference with the same says how far that goes."""
    ids = goldens_tool.token_ids(case)
    convert(file, tmp_path / "packed", find_recipe("float32"))
    with Model.load(tmp_path / "packed", threads=1) as model, PackedModel(tmp_path / "packed") as packed:
        rounded = ReferenceModel(packed.shape, UnpackedWeights(packed, integers=True), np.float16).logits(ids)
        found = model.logits(ids.tolist())
    assert farthest(case, found) < max(FLOAT16_STEP, 1.1 * farthest(case, rounded))
