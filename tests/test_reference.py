"""The NumPy reference against transformers: logits within 1e-4 relative, however the tokens are fed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import FLOAT_SCHEMES, GOLDEN_CASES, goldens_tool

from edge_lfm.architectures import read_shape
from edge_lfm.demo import demo_checkpoint
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.reference import ReferenceModel, ReferenceState

TOLERANCE = 1e-4  # of the largest logit


def reference_of(folder: Path) -> ReferenceModel:
    checkpoint = FolderCheckpoint(folder)
    shape = read_shape(checkpoint.raw_config)
    return ReferenceModel(shape, CheckpointWeights(checkpoint, shape, plan_tensors(shape, FLOAT_SCHEMES)))


@pytest.mark.parametrize("case", GOLDEN_CASES)
@pytest.mark.parametrize(
    "splits", [[], [1], [5, 6, 20], [30, *range(31, 37)]], ids=["whole", "one", "uneven", "decode"]
)
def test_logits_equal_transformers(
    case: str, splits: list[int], case_checkpoints: dict[str, Path], golden_logits: dict[str, np.ndarray]
) -> None:
    model, state = reference_of(case_checkpoints[case]), ReferenceState()
    parts = np.split(goldens_tool.token_ids(case), splits)
    logits = np.concatenate([model.logits(part, state) for part in parts])
    expected = golden_logits[case]
    assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.slow
def test_demo_logits_equal_transformers(demo_goldens: dict[str, dict]) -> None:
    model = reference_of(demo_checkpoint())
    for name, prompt in demo_goldens.items():
        logits = model.logits(np.array(prompt["prompt_ids"]))[-len(prompt["logits"]) :]
        expected = prompt["logits"]
        assert np.abs(logits - expected).max() <= TOLERANCE * np.abs(expected).max(), name
