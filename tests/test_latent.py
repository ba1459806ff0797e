"""Latent attention so far: configs of both families, and the reference beside transformers. The kernels refuse it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, FLOAT_SCHEMES, goldens_tool, write_checkpoint

from edge_lfm.architectures import read_shape
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.kernels.spec.ref_latent import latent_attention
from edge_lfm.kernels.spec.routing import route
from edge_lfm.model import plan
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.reference import ReferenceModel, ReferenceState
from edge_lfm.shape import Ffn, LatentAttention, Layer, Rope, Router, Yarn

CASES: dict[str, dict] = json.loads((DATA / "reference_goldens.json").read_text(encoding="utf-8"))
GLM_FLASH = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "model_type": "glm4_moe_lite",
    "vocab_size": 154880,
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "moe_intermediate_size": 1536,
    "num_hidden_layers": 47,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "n_shared_experts": 1,
    "n_routed_experts": 64,
    "routed_scaling_factor": 1.8,
    "kv_lora_rank": 512,
    "q_lora_rank": 768,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "qk_nope_head_dim": 192,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000,
    "max_position_embeddings": 202752,
    "eos_token_id": [154820, 154827, 154829],
}
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": 129280,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_nextn_predict_layers": 1,
    "first_k_dense_replace": 3,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "n_shared_experts": 1,
    "n_routed_experts": 256,
    "routed_scaling_factor": 2.5,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "qk_nope_head_dim": 128,
    "n_group": 8,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": {
        "type": "yarn",
        "factor": 40,
        "original_max_position_embeddings": 4096,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
    },
    "max_position_embeddings": 163840,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def reference_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ReferenceModel:
    monkeypatch.setattr(plan, "check_supported", lambda _shape: None)
    checkpoint = FolderCheckpoint(folder)
    shape = read_shape(checkpoint.raw_config)
    return ReferenceModel(shape, CheckpointWeights(checkpoint, shape, plan_tensors(shape, FLOAT_SCHEMES)))


@pytest.mark.parametrize("splits", [[], [5, 6, 20]], ids=["whole", "uneven"])
@pytest.mark.parametrize("case", CASES)
def test_the_reference_equals_transformers(
    case: str,
    splits: list[int],
    golden_logits: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(plan, "check_supported", lambda _shape: None)
    folder = write_checkpoint(tmp_path / "checkpoint", CASES[case])
    model, state = reference_of(folder, monkeypatch), ReferenceState()
    logits = np.concatenate([model.logits(part, state) for part in np.split(goldens_tool.token_ids(case), splits)])
    expected = golden_logits[case]
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_absorbed_equals_unabsorbed_in_float64() -> None:
    """Keys and values of every head made of the latents, as transformers does, and attention over those."""
    rng, (tokens, places, heads, rank, plain, value, turned) = np.random.default_rng(3), (5, 9, 3, 32, 16, 24, 8)
    q, t = rng.standard_normal((tokens, heads, plain)), rng.standard_normal((tokens, heads, turned))
    c, r = rng.standard_normal((places, rank)), rng.standard_normal((places, turned))
    k_b, v_b = rng.standard_normal((heads, plain, rank)), rng.standard_normal((heads, value, rank))
    scale, position = 0.17, places - tokens
    keys, values = np.einsum("hnr,pr->hpn", k_b, c), np.einsum("hvr,pr->hpv", v_b, c)
    scores = scale * (np.einsum("thn,hpn->htp", q, keys) + np.einsum("thw,pw->htp", t, r))
    scores[:, np.arange(places)[None, :] > position + np.arange(tokens)[:, None]] = -np.inf
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("htp,hpv->thv", weights, values)
    taken = latent_attention(np.einsum("thn,hnr->thr", q, k_b), t, c, r, position, scale)
    assert taken.dtype == np.float64
    assert np.abs(np.einsum("thr,hvr->thv", taken, v_b) - expected).max() < 1e-12 * np.abs(expected).max()


def test_the_published_configs_are_read() -> None:
    glm = LatentAttention(20, 768, 512, 192, 256, Rope(1e6, 64), 1e-6, 256**-0.5, interleaved=True)
    router = Router(64, 4, "sigmoid", selection_bias=True, normalize=True, guard=1e-20, scale=1.8)
    shape = read_shape(GLM_FLASH)
    assert shape.layers == (Layer(glm, Ffn(10240)), *[Layer(glm, Ffn(1536, router, shared=1536))] * 46)
    grown = 0.1 * np.log(40) + 1
    rope = Rope(1e4, 64, scaling=Yarn(40.0, 4096))
    deepseek = LatentAttention(128, 1536, 512, 128, 128, rope, 1e-6, 192**-0.5 * grown * grown, interleaved=True)
    router = replace(router, experts=256, top_k=8, scale=2.5, groups=8, kept_groups=4)
    shape = read_shape(DEEPSEEK)
    sparse = Layer(deepseek, Ffn(2048, router, shared=2048))
    assert shape.layers == (*[Layer(deepseek, Ffn(18432))] * 3, *[sparse] * 58)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": True}, "attention_bias true"),
        ({"scoring_func": "softmax"}, "scoring_func 'softmax'"),
        ({"topk_method": "greedy"}, "topk_method 'greedy'"),
        ({"moe_layer_freq": 2}, "moe_layer_freq 2"),
        ({"n_group": 7}, "n_group 7"),
        ({"topk_group": 9}, "topk_group 9"),
        ({"topk_group": 1, "num_experts_per_tok": 33}, "num_experts_per_tok 33"),
        ({"num_key_value_heads": 8}, "num_key_value_heads 8"),
        ({"head_dim": 128}, "head_dim 128"),
        ({"qk_rope_head_dim": 63}, "qk_rope_head_dim 63"),
        ({"routed_scaling_factor": None}, "routed_scaling_factor is missing"),
        ({"kv_lora_rank": None}, "kv_lora_rank is missing"),
        ({"rope_theta": None}, "rope_theta is missing"),
        ({"first_k_dense_replace": None}, "first_k_dense_replace is missing"),
    ],
)
def test_configs_are_refused_by_name(change: dict, word: str) -> None:
    with pytest.raises(UnsupportedModelError, match=word):
        read_shape(DEEPSEEK | change)


def test_a_rank_of_queries_is_said_and_layers_agree() -> None:
    with pytest.raises(UnsupportedModelError, match="q_lora_rank is missing"):
        read_shape({key: value for key, value in GLM_FLASH.items() if key != "q_lora_rank"})
    types = ["dense", "dense", *["sparse"] * 45]
    with pytest.raises(UnsupportedModelError, match="other layers than first_k_dense_replace 1"):
        read_shape(GLM_FLASH | {"mlp_layer_types": types, "first_k_dense_replace": 1})
    with pytest.raises(UnsupportedModelError, match="num_hidden_layers = 47"):
        read_shape(GLM_FLASH | {"mlp_layer_types": types[1:]})
    assert len(read_shape(GLM_FLASH | {"mlp_layer_types": types}).routers) == 45


def test_groups_keep_their_best_experts_only() -> None:
    """The best expert of all is left out where its group is not among the best."""
    rule = Router(6, 2, "sigmoid", selection_bias=False, normalize=False, guard=0.0, scale=1.0, groups=3, kept_groups=1)
    logits = np.array([[4.0, -9.0, 2.0, 1.0, 3.0, -1.0]], np.float32)
    chosen, _ = route(logits, None, rule)
    assert chosen.tolist() == [[2, 3]]


def test_layers_that_draft_are_left_out_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plan, "check_supported", lambda _shape: None)
    raw, shape = CASES["glm4_moe_lite"], read_shape(CASES["glm4_moe_lite"])
    folder = write_checkpoint(tmp_path / "a", raw)
    with FolderCheckpoint(folder) as checkpoint:
        tensors = {name: checkpoint.read(name).copy() for name in checkpoint.names}
    tensors["model.layers.3.eh_proj.weight"] = np.zeros((4, 4), np.float32)
    for more, behind in ((1, True), (None, False)):
        folder = write_checkpoint(tmp_path / str(behind), raw | {"num_nextn_predict_layers": more}, tensors)
        with FolderCheckpoint(folder) as checkpoint:
            if behind:
                CheckpointWeights(checkpoint, shape, plan_tensors(shape, FLOAT_SCHEMES))
                continue
            with pytest.raises(UnsupportedModelError, match=r"eh_proj\.weight is unknown"):
                CheckpointWeights(checkpoint, shape, plan_tensors(shape, FLOAT_SCHEMES))


def test_no_kernel_computes_it() -> None:
    with pytest.raises(UnsupportedModelError, match="attention keeps latents, which the kernels cannot do"):
        plan_tensors(read_shape(GLM_FLASH), FLOAT_SCHEMES)
