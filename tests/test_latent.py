"""What families with latent attention alone have: their configs, cuts of their tensors, caches of latents, groups."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FLOAT_SCHEMES, GOLDEN_CASES, goldens_tool, write_checkpoint
from stepping import all_rows
from test_engine import FLOAT16_STEP, TIERS, FollowingReference, engine_logits, reference_logits
from test_formats import write_float8
from test_kernels import Step

from edge_lfm.architectures import read_shape
from edge_lfm.engine.runner import Runner
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.kernels.load.library import Kernels, load_kernels
from edge_lfm.kernels.spec import ref
from edge_lfm.kernels.spec.isa import find_isa
from edge_lfm.kernels.spec.layout import LAYER, SCORE_BLOCK, SPAN
from edge_lfm.kernels.spec.ref_latent import latent_attention
from edge_lfm.kernels.spec.routing import route, scores_of
from edge_lfm.memory.caches import CacheSizes
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.packed_model import PackedModel, UnpackedWeights
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.reference import ReferenceModel
from edge_lfm.model.state import State
from edge_lfm.quantize.families import family_config
from edge_lfm.shape import Ffn, LatentAttention, Layer, Rope, Router, Yarn

CASES = [case for case in GOLDEN_CASES if case.startswith(("glm4_moe_lite", "deepseek_v3"))]
GLM_FLASH, DEEPSEEK = family_config("glm-4.7-flash"), family_config("deepseek-v3")


@pytest.fixture(scope="module", params=TIERS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return load_kernels(find_isa(request.param))


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
        read_shape(GLM_FLASH | {"mlp_layer_types": types})
    with pytest.raises(UnsupportedModelError, match="num_hidden_layers = 47"):
        read_shape(GLM_FLASH | {"mlp_layer_types": types[1:]})
    assert len(read_shape(GLM_FLASH | {"mlp_layer_types": types, "first_k_dense_replace": None}).routers) == 45


def test_groups_keep_their_best_experts_only() -> None:
    """The best expert of all is left out where its group is not among the best."""
    rule = Router(6, 2, "sigmoid", selection_bias=False, normalize=False, guard=0.0, scale=1.0, groups=3, kept_groups=1)
    logits = np.array([[4.0, -9.0, 2.0, 1.0, 3.0, -1.0]], np.float32)
    chosen, _ = route(logits, None, rule)
    assert chosen.tolist() == [[2, 3]]


def test_layers_that_draft_are_left_out_by_name(case_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    raw, shape = GOLDEN_CASES["glm4_moe_lite"], read_shape(GOLDEN_CASES["glm4_moe_lite"])
    with FolderCheckpoint(case_checkpoints["glm4_moe_lite"]) as checkpoint:
        tensors = {name: checkpoint.read(name).copy() for name in checkpoint.names}
    tensors["model.layers.3.eh_proj.weight"] = np.zeros((4, 4), np.float32)
    folder = write_checkpoint(tmp_path / "told", raw | {"num_nextn_predict_layers": 1}, tensors)
    with FolderCheckpoint(folder) as checkpoint:
        CheckpointWeights(checkpoint, shape, plan_tensors(shape, FLOAT_SCHEMES))
    folder = write_checkpoint(tmp_path / "untold", raw, tensors)
    with (
        FolderCheckpoint(folder) as checkpoint,
        pytest.raises(UnsupportedModelError, match=r"eh_proj\.weight is unknown"),
    ):
        CheckpointWeights(checkpoint, shape, plan_tensors(shape, FLOAT_SCHEMES))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kv_dtype", ["float16", "int8"])
def test_a_state_keeps_latents_and_goes_back(
    case: str, kv_dtype: str, packed_cases: dict[str, dict[str, Path]], kernels: Kernels
) -> None:
    """Fed again from a checkpoint, or by a copy, the same tokens give the same bits; caches have the plan's sizes."""
    ids = goldens_tool.token_ids(case)
    with PackedModel(packed_cases["int8"][case]) as model, Runner(model, kernels, 1, 64) as runner:
        latent = model.shape.latents[0]
        state, other = (State(model.shape, 64, kv_dtype) for _ in range(2))
        whole = all_rows(runner, ids[:20], state)
        before = state.checkpoint()
        rest = all_rows(runner, ids[20:], state)
        other.copy_from(state, before.position)
        other.go_back(before)
        state.go_back(before)
        assert np.array_equal(all_rows(runner, ids[20:], state), rest)
        assert np.array_equal(all_rows(runner, ids[20:], other), rest)
        value_bytes, scale_bytes = (1, 4) if kv_dtype == "int8" else (2, 0)
        each = (latent.rank + latent.rope.width) * value_bytes + 2 * scale_bytes
        assert state.nbytes == len(model.shape.layers) * state.capacity * each
        assert CacheSizes(model.shape, state.capacity, kv_dtype, 64).nbytes == state.nbytes
        assert whole.shape == (20, model.shape.vocab)


@pytest.mark.parametrize("case", CASES)
def test_an_int8_cache_stays_close(case: str, packed_cases: dict[str, dict[str, Path]], kernels: Kernels) -> None:
    """The reference with latents and keys rounded as `ref.round_heads` says."""
    ids, folder = goldens_tool.token_ids(case), packed_cases["float32"][case]
    with PackedModel(folder) as model, Runner(model, kernels, 1, 64) as runner:
        logits = all_rows(runner, ids, State(model.shape, len(ids), "int8"))
        reference = RoundedReference(model.shape, UnpackedWeights(model, integers=False))
        expected, exact = reference.logits(ids), reference_logits(folder, ids, integers=False)
    # A value next to a rounding boundary may fall to the other side: far less than what rounding itself does.
    assert np.abs(logits - expected).max() < 0.5 * np.abs(exact - expected).max()


class RoundedReference(ReferenceModel):
    def _as_cached(self, n: int, field: str, x: np.ndarray) -> np.ndarray:
        return ref.round_heads(x)


@pytest.mark.parametrize(("kept", "groups"), [(1, 4), (3, 8), (4, 8), (7, 8), (1, 2)])
def test_kernels_choose_by_groups(kept: int, groups: int, kernels: Kernels) -> None:
    rng, experts, top_k, tokens = np.random.default_rng(kept + groups), 32, 3, 9
    rule = Router(experts, top_k, "sigmoid", True, True, 1e-20, 2.5, groups=groups, kept_groups=kept)
    logits = rng.standard_normal((tokens, experts)).astype(np.float32)
    logits[3:5] = rng.integers(-1, 1, (2, experts))  # ties between groups, and within them
    bias = rng.standard_normal(experts).astype(np.float32)
    chosen, weights = route(logits, bias, rule)
    arrays = {
        "router_logits": logits.copy(),
        "chosen": np.zeros((tokens, top_k), np.int64),
        "chosen_weight": np.zeros((tokens, top_k), np.float32),
        "segments": np.zeros(experts + 1, np.int64),
        "pair_token": np.zeros(tokens * top_k, np.int64),
        "pair_weight": np.zeros(tokens * top_k, np.float32),
    }
    step, layer = Step(tokens=tokens, experts=experts, top_k=top_k, **arrays), np.zeros(1, LAYER)
    layer["is_moe"], layer["router_bias"], layer["normalize"] = 1, bias.ctypes.data, 1
    layer["guard"], layer["route_scale"] = rule.guard, rule.scale
    layer["groups"], layer["kept_groups"] = groups, kept
    kernels.route(step.address, layer.ctypes.data)
    assert np.array_equal(arrays["chosen"], chosen)
    assert np.abs(arrays["chosen_weight"] - weights).max() < 1e-6
    assert np.abs(arrays["router_logits"] - scores_of(logits, rule)).max() < 1e-6


def test_threads_share_out_heads(packed_cases: dict[str, dict[str, Path]]) -> None:
    """One token's heads are dealt out by the number of threads, and no bit depends on it."""
    case = "glm4_moe_lite-20-heads"
    ids, folder = goldens_tool.token_ids(case), packed_cases["balanced"][case]
    alone = engine_logits(folder, ids, [30, *range(31, 37)])
    for threads in (2, 3, 7):
        assert np.array_equal(engine_logits(folder, ids, [30, *range(31, 37)], threads), alone)


def test_float8_sources_are_cut(tmp_path: Path) -> None:
    """Both matrices that kv_b_proj stands for are cut from its values, whose blocks of scales cross heads."""
    raw = GOLDEN_CASES["deepseek_v3"]
    shape = read_shape(raw)
    tensors = plan_tensors(shape, FLOAT_SCHEMES)
    coded_folder, plain_folder = write_float8(tmp_path, raw, (48, 32))
    with FolderCheckpoint(coded_folder) as coded, FolderCheckpoint(plain_folder) as plain:
        found, expected = (CheckpointWeights(checkpoint, shape, tensors) for checkpoint in (coded, plain))
        for name in (source.name for tensor in tensors for source in tensor.sources if "self_attn" in source.name):
            assert np.array_equal(found(name), expected(name)), name


def test_more_positions_than_a_span(packed_cases: dict[str, dict[str, Path]], kernels: Kernels) -> None:
    """Two spans and a part of a block, whose softmax is merged."""
    folder, count = packed_cases["float32"]["glm4_moe_lite-no-query-rank"], SPAN + SCORE_BLOCK + 5
    ids = goldens_tool.token_ids("long", count)
    with PackedModel(folder) as model, Runner(model, kernels, 1, count) as runner:
        state = State(model.shape, count, chunk=count)
        logits, expected = all_rows(runner, ids, state), FollowingReference(model, state).logits(ids)
    error = np.abs(logits - expected) / np.abs(expected).max()
    assert np.median(error) < 1e-5
    assert error.max() < FLOAT16_STEP
