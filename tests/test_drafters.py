"""Drafters of the published layout: their description, their packed form, the reference, and the compiled passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DATA
from drafting import tool, write_drafter

from edge_lfm.architectures.dspark import read_drafter
from edge_lfm.demo import demo_checkpoint, demo_drafter
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.formats.open_checkpoint import open_checkpoint
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.drafter_plan import DrafterWeights, plan_drafter
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.reference import ReferenceModel
from edge_lfm.model.reference_drafter import ReferenceDrafter
from edge_lfm.quantize.recipe import find_recipe

GOLDENS: dict[str, list[dict[str, list[Any]]]] = json.loads((DATA / "drafter_goldens.json").read_text("utf-8"))


@pytest.mark.parametrize("case", list(GOLDENS))
def test_the_reference_drafts_what_the_published_form_says(case: str, tmp_path: Path) -> None:
    """Slot by slot, with confidences: of wrong readings the text would be the same."""
    embedding, streams, ids = tool.inputs_of(case)
    with open_checkpoint(write_drafter(tmp_path / "d", tool.config_of(case))) as checkpoint:
        drafter = read_drafter(checkpoint.raw_config, "config.json")
        weights = DrafterWeights(checkpoint, drafter, plan_drafter(drafter, find_recipe("float32").schemes))
        for n, golden in zip(tool.ROUNDS, GOLDENS[case], strict=True):
            reference = ReferenceDrafter(drafter, weights, embedding, embedding)
            for part in np.array_split(streams[:n], min(3, n)):
                reference.read(part)
            drafts, confidences = reference.draft(int(ids[n]))
            assert drafts == golden["drafts"]
            assert np.abs(confidences - golden["confidences"]).max() < 1e-5


def test_drafts_are_those_of_llama_cpp() -> None:
    """Of the demo model's drafter in float32, slot by slot in every round (`tools/make_llama_draft_goldens.py`)."""
    goldens = json.loads((DATA / "llama_draft_goldens.json").read_text("utf-8"))
    assert sum(len(golden["rounds"]) for golden in goldens.values()) > 70
    with open_checkpoint(demo_checkpoint()) as files, open_checkpoint(demo_drafter()) as checkpoint:
        drafter, shape = read_drafter(checkpoint.raw_config, "config.json"), files.describe()
        weights = DrafterWeights(checkpoint, drafter, plan_drafter(drafter, find_recipe("float32").schemes))
        target = CheckpointWeights(files, shape, plan_tensors(shape, find_recipe("float32").schemes))
        table = target("model.embed_tokens.weight")
        for golden in goldens.values():
            streams = list[np.ndarray]()
            ReferenceModel(shape, target).logits(np.array(golden["ids"]), streams=streams)
            tapped = np.concatenate([streams[n] for n in drafter.taps], 1)
            reference = ReferenceDrafter(drafter, weights, table, table)
            for made in golden["rounds"]:
                reference.read(tapped[reference.position : made["read"]])
                assert reference.draft(golden["ids"][made["read"]])[0] == made["drafts"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"markov_head_type": "gated"}, "markov_head_type 'gated'"),
        ({"enable_confidence_head": False}, "enable_confidence_head False"),
        ({"sample_from_anchor": False}, "sample_from_anchor False"),
        ({"is_causal": True}, "is_causal True"),
        ({"sliding_window": 512}, "sliding_window 512"),
        ({"projector_type": "mlp"}, "projector_type 'mlp'"),
        ({"markov_rank": 24}, "markov_rank is 24"),
        ({"block_size": 0}, "block_size is 0"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"layer_types": ["sliding_attention"]}, "sliding_attention"),
        ({"dflash_config": {"mask_token_id": 3, "num_target_layers": 6, "target_layer_ids": [2, 9]}}, "layers of 0..5"),
        ({"dflash_config": {"mask_token_id": 3, "num_target_layers": 6, "target_layer_ids": [3, 2]}}, "in order"),
        ({"dflash_config": {"mask_token_id": 192, "num_target_layers": 6, "target_layer_ids": [2]}}, "mask_token_id"),
        ({"dflash_config": {"mask_token_id": 3, "target_layer_ids": [2]}}, "num_target_layers is missing"),
    ],
)
def test_what_a_config_may_not_ask_for(change: dict[str, Any], what: str) -> None:
    with pytest.raises(UnsupportedModelError, match=what):
        read_drafter(tool.config_of("one-layer") | change, "config.json")
