"""What a `config.json` means: the description that it is read into, and every value that is refused by name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FLOAT_SCHEMES, GOLDEN_CASES, ROOT, goldens_tool, write_checkpoint

from edge_lfm import architectures
from edge_lfm.architectures import lfm2, read_shape
from edge_lfm.errors import EdgeLfmError, UnsupportedModelError
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.kernels.spec.routing import route
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.supported import check_supported
from edge_lfm.quantize.families import PUBLISHED, family_config
from edge_lfm.shape import Attention, Ffn, Layer, Rope, Router, Shape, ShortConv

BROKEN_CONFIGS = {
    "other type": ({"model_type": "llama"}, "llama"),
    "no type": ({"model_type": None}, "model_type"),
    "a list of types": ({"model_type": ["lfm2"]}, "model_type"),
    "activation": ({"hidden_act": "gelu"}, "gelu"),
    "old activation": ({"hidden_activation": "gelu_tanh"}, "gelu_tanh"),
    "layer type": ({"layer_types": ["conv", "conv", "mamba", "conv"]}, "mamba"),
    "few layer types": ({"layer_types": ["conv"]}, "layer_types"),
    "layer types of other layers": ({"layer_types": None, "full_attn_idxs": [4]}, r"full_attn_idxs \[4\]"),
    "huge layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    "huge vocabulary": ({"vocab_size": 1 << 23}, "vocab_size"),
    "wide conv": ({"conv_L_cache": 65}, "conv_L_cache is 65"),
    "zero heads": ({"num_attention_heads": 0}, "num_attention_heads"),
    "float hidden": ({"hidden_size": 64.5}, "hidden_size"),
    "boolean hidden": ({"hidden_size": True}, "hidden_size"),
    "no hidden": ({"hidden_size": None}, "hidden_size is missing"),
    "top-k above experts": ({"num_experts_per_tok": 9}, "num_experts_per_tok 9"),
    "no experts": ({"num_experts": 0}, "num_experts is 0"),
    "flag in words": ({"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes'"),
    "no scale": ({"routed_scaling_factor": 0}, "routed_scaling_factor is 0"),
    "kv does not divide": ({"num_key_value_heads": 3}, "divide"),
    "odd heads": ({"num_attention_heads": 64, "num_key_value_heads": 64}, "head_dim 1 is odd"),
    "scaled rope": ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "yarn"),
    "old scaled rope": ({"rope_parameters": {}, "rope_scaling": {"type": "linear"}}, "linear"),
    "rope in a word": ({"rope_parameters": "default"}, "rope_parameters"),
    "string theta": ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta"),
    "no theta": ({"rope_parameters": {"rope_type": "default"}}, "rope_theta is missing"),
    "null theta": ({"rope_parameters": {"rope_theta": None}}, "rope_theta is missing"),
    "zero theta": ({"rope_parameters": {"rope_theta": 0}}, "rope_theta is 0"),
    "other head_dim": ({"head_dim": 128}, "head_dim"),
    "negative eps": ({"norm_eps": -1}, "norm_eps"),
    "null eps": ({"norm_eps": None}, "norm_eps"),
}

YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
ALPHA = {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 1000.0}
KINDS_OF_ATTENTION = ("full_attention", "sliding_attention")
OTHER_BROKEN_CONFIGS = [
    ("moe", {"architectures": ["Lfm2Model"]}, "architectures"),
    ("qwen2", {"architectures": ["Qwen2ForSequenceClassification"]}, "Qwen2ForSequenceClassification"),
    ("qwen2", {"architectures": "Qwen2ForCausalLM"}, "architectures"),
    ("qwen2", {"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM.* for model_type qwen2"),
    ("moe", {"architectures": ["Lfm2ForCausalLM"]}, "Lfm2ForCausalLM.* for model_type lfm2_moe"),
    ("qwen2", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ("qwen2", {"use_sliding_window": True}, "use_sliding_window true"),
    ("qwen2", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "'sliding_attention'"),
    ("qwen2", {"layer_types": "full_attention"}, "layer_types"),
    ("qwen2", {"use_mrope": True}, "use_mrope true"),
    ("qwen2", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}}, "original_max_position"),
    ("qwen2", {"rope_parameters": YARN | {"factor": None}}, "factor is missing"),
    ("qwen2", {"rope_parameters": YARN | {"factor": 0}}, "factor is 0"),
    ("qwen2", {"rope_parameters": YARN | {"truncate": 1}}, "truncate is 1"),
    ("qwen2", {"rope_parameters": YARN | {"original_max_position_embeddings": 0.5}}, "embeddings is 0.5"),
    ("qwen2", {"rope_parameters": YARN | {"beta_fast": -1}}, "beta_fast is -1"),
    ("qwen2", {"rope_parameters": YARN | {"attention_factor": "x"}}, "attention_factor is 'x'"),
    ("qwen2", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e6}}, "longrope"),
    ("qwen2", {"rope_parameters": {"rope_theta": 1e6}, "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    ("qwen2", {"rope_parameters": None}, "rope_theta is missing"),
    ("qwen2", {"rope_scaling": YARN}, r"rope_scaling says rope_type 'yarn', rope_parameters 'default'"),
    ("qwen2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling says type 'linear'"),
    (
        "qwen2-yarn",
        {"rope_scaling": {"type": "yarn", "factor": 2.0}},
        "rope_scaling says factor 2.0, rope_parameters 4.0",
    ),
    ("lfm3", {"rope_scaling": YARN}, "rope_scaling says rope_type 'yarn'"),
    ("qwen2", {"num_key_value_heads": None}, "num_key_value_heads is missing"),
    ("qwen2", {"num_attention_heads": 64}, "head_dim 1 is odd"),
    ("qwen3", {"attention_bias": True}, "attention_bias true"),
    ("qwen3", {"head_dim": 33}, "head_dim 33 is odd"),
    ("qwen3", {"head_dim": 2048}, "head_dim is 2048"),
    ("qwen3", {"num_key_value_heads": 4}, "num_attention_heads 2 is no multiple"),
    ("qwen3_moe", {"mlp_only_layers": [2]}, r"mlp_only_layers \[2\]"),
    ("qwen3_moe", {"mlp_only_layers": 1}, "mlp_only_layers 1"),
    ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
    ("qwen3_moe", {"num_experts_per_tok": 21}, "num_experts_per_tok 21"),
    ("lfm3", {"layer_types": ["conv"]}, "layer_types"),
    ("lfm3", {"layer_types": ["mamba"] * 6}, "mamba"),
    ("lfm3", {"sliding_window": None}, "sliding_window is missing"),
    ("lfm3", {"sliding_window": 0}, "sliding_window is 0"),
    ("lfm3", {"attention_bias": True}, "attention_bias true"),
    ("lfm3", {"rope_parameters": None}, "rope_parameters has no"),
    ("lfm3", {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, "rope_parameters has no"),
    ("lfm3", {"rope_parameters": {"full_attention": {}, "sliding_attention": {}}}, "rope_theta is missing"),
    (
        "lfm3",
        {"rope_parameters": {key: {"rope_theta": 1, "factor": 2} for key in KINDS_OF_ATTENTION}},
        "the factor 2",
    ),
    (
        "lfm3",
        {
            "layer_types": ["sliding_attention"] * 6,
            "rope_parameters": {"sliding_attention": {"rope_theta": 1, "partial_rotary_factor": 0.5}},
        },
        "partial_rotary_factor 0.5 is not implemented for sliding_attention",
    ),
    ("lfm3", {"use_sandwich_norm": 1}, "use_sandwich_norm is 1"),
    ("lfm3", {"decision_type": "lfm3-d1"}, "decision_type is set"),
    ("lfm3", {"is_causal": False}, "is_causal false"),
    ("afmoe", {"score_func": "softmax"}, "score_func 'softmax'"),
    ("afmoe", {"route_norm": False}, "route_norm False"),
    ("afmoe", {"n_group": 8}, "n_group 8"),
    ("afmoe", {"attention_bias": True}, "attention_bias true"),
    ("afmoe", {"num_shared_experts": None}, "num_shared_experts is missing"),
    ("afmoe", {"layer_types": ["conv"] * 5}, "layer type 'conv'"),
    ("afmoe", {"layer_types": ["full_attention"]}, "layer_types must be a list of num_hidden_layers = 5"),
    ("afmoe", {"sliding_window": None}, "sliding_window is missing"),
    ("afmoe", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0"),
    ("afmoe", {"mup_enabled": 1}, "mup_enabled is 1"),
    ("afmoe", {"rope_parameters": None}, "rope_theta is missing"),
    ("afmoe", {"num_experts_per_tok": 9}, "num_experts_per_tok 9"),
    ("minimax_m2", {"scoring_func": "softmax"}, "scoring_func 'softmax'"),
    ("minimax_m2", {"use_routing_bias": False}, "use_routing_bias False"),
    ("minimax_m2", {"use_qk_norm": False}, "use_qk_norm False"),
    ("minimax_m2", {"qk_norm_type": "per_head"}, "qk_norm_type 'per_head'"),
    ("minimax_m2", {"shared_intermediate_size": 1024}, "shared_intermediate_size 1024"),
    ("minimax_m2", {"attn_type_list": [1, 0]}, r"attn_type_list \[1, 0\]"),
    ("minimax_m2", {"layernorm_mlp_alpha": 3.5}, "layernorm_mlp_alpha 3.5"),
    ("minimax_m2", {"sliding_window": 64}, "sliding_window 64"),
    ("minimax_m2", {"rotary_dim": 65}, "rotary_dim is 65"),
    ("minimax_m2", {"rotary_dim": 48}, "partial_rotary_factor 0.5 is not implemented, only 0.75"),
    ("hunyuan", {"use_cla": True}, "use_cla true"),
    ("hunyuan", {"attention_bias": True}, "attention_bias true"),
    ("hunyuan", {"use_qk_norm": False}, "use_qk_norm False"),
    ("hunyuan", {"use_mixed_mlp_moe": False}, "use_mixed_mlp_moe False"),
    ("hunyuan", {"norm_topk_prob": False}, "norm_topk_prob False"),
    ("hunyuan", {"moe_layer_num_skipped": 1}, "moe_layer_num_skipped 1"),
    ("hunyuan", {"num_shared_expert": [1, 0]}, "num_shared_expert is 0"),
    ("hunyuan", {"moe_topk": [3]}, "moe_topk must be a number or a list of num_hidden_layers = 2"),
    ("hunyuan", {"moe_topk": [3, 9]}, "moe_topk 9 is more than num_experts 8 in layer 1"),
    ("hunyuan", {"moe_intermediate_size": [32, "x"]}, "moe_intermediate_size is 'x'"),
    ("hunyuan", {"attention_head_dim": 32}, "head_dim 64 is not attention_head_dim 32"),
    ("hunyuan", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "dynamic"}}, "without alpha"),
    ("hunyuan", {"rope_parameters": ALPHA | {"factor": 2.0}}, "factor 2.0 beside alpha"),
    ("hunyuan", {"rope_parameters": ALPHA | {"alpha": 0}}, "alpha is 0"),
    ("hunyuan", {"rope_parameters": ALPHA | {"alpha": 1e300}}, r"alpha 1e\+300"),
    ("hunyuan", {"rope_parameters": ALPHA | {"rope_theta": None}}, "rope_theta is missing"),
    ("hunyuan", {"architectures": ["HunYuanMoEV1Model"]}, "HunYuanMoEV1Model"),
    ("olmoe", {"clip_qkv": 8.0}, "clip_qkv 8.0"),
    ("olmoe", {"attention_bias": True}, "attention_bias true"),
]


@pytest.mark.parametrize(("case", "change", "word"), OTHER_BROKEN_CONFIGS)
def test_configs_of_other_families_are_refused_by_name(case: str, change: dict, word: str) -> None:
    with pytest.raises(UnsupportedModelError, match=word):
        read_shape(GOLDEN_CASES[case] | change)


@pytest.mark.parametrize("name", BROKEN_CONFIGS)
def test_configs_are_refused_by_name(name: str) -> None:
    change, word = BROKEN_CONFIGS[name]
    with pytest.raises(UnsupportedModelError, match=word):
        read_shape(GOLDEN_CASES["moe"] | change)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"block_multiple_of": 0}, "block_multiple_of is 0"),
        ({"block_multiple_of": None}, "block_multiple_of is None"),
        ({"block_ffn_dim_multiplier": -1}, "block_ffn_dim_multiplier"),
        ({"intermediate_size": None}, "intermediate_size is missing"),
        ({"block_ff_dim": 1 << 21}, "block_ff_dim"),
    ],
)
def test_dense_widths_are_refused_by_name(change: dict, word: str) -> None:
    with pytest.raises(UnsupportedModelError, match=word):
        read_shape(GOLDEN_CASES["dense-adjusted-width"] | change)


@pytest.mark.parametrize(
    "case",
    [
        "moe",
        "lfm3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "olmoe",
        "afmoe",
        "minimax_m2",
        "gpt_oss",
        "hunyuan",
        "glm4_moe_lite",
        "deepseek_v3",
    ],
)
@pytest.mark.parametrize("value", [0, -1, 2**31, 1e300, None, "x", [], {}, True], ids=str)
def test_no_config_value_ends_in_a_traceback(case: str, value: object) -> None:
    for field in GOLDEN_CASES[case]:
        read_or_refuse(GOLDEN_CASES[case] | {field: value})


@pytest.mark.parametrize("field", ["rope_type", "rope_theta", "partial_rotary_factor", "factor", "alpha"])
@pytest.mark.parametrize("value", [0, -1, 2**31, 1e300, "x", [], {}, True], ids=str)
def test_no_rotary_parameter_ends_in_a_traceback(field: str, value: object) -> None:
    nested = {kind: GOLDEN_CASES["lfm3"]["rope_parameters"][kind] | {field: value} for kind in KINDS_OF_ATTENTION}
    read_or_refuse(GOLDEN_CASES["lfm3"] | {"rope_parameters": nested})
    read_or_refuse(GOLDEN_CASES["qwen2"] | {"rope_parameters": YARN | {field: value}})
    for width in (2, 64):
        read_or_refuse(GOLDEN_CASES["hunyuan"] | {"head_dim": width, "rope_parameters": ALPHA | {field: value}})


def read_or_refuse(raw: dict) -> None:
    try:
        read_shape(raw)
    except EdgeLfmError as error:
        assert error.hint


def test_key_spellings_of_the_family() -> None:
    old = {
        "model_type": "lfm2",
        "vocab_size": 65536,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "block_ff_dim": 12288,
        "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
        "theta": 1e6,
        "tie_embedding": True,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
        "conv_L_cache": 3,
        "block_norm_eps": 1e-5,
        "eos_token_id": 7,
    }
    attention = Attention(32, 8, 64, Rope(1e6, 64), "head")
    operators = [attention if n in (2, 5, 8, 10, 12, 14) else ShortConv(3, bias=False) for n in range(16)]
    expected = Shape(
        vocab=65536,
        hidden=2048,
        eps=1e-5,
        layers=tuple(Layer(operator, Ffn(8192)) for operator in operators),
        tied=True,
        context=128_000,
        bos=None,
        eos=(7,),
    )
    assert read_shape(old) == expected
    new = {
        k: v
        for k, v in old.items()
        if k not in ("block_ff_dim", "theta", "tie_embedding", "full_attn_idxs", "block_norm_eps")
    }
    new |= {
        "intermediate_size": 12288,
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
        "tie_word_embeddings": True,
        "layer_types": ["full_attention" if isinstance(o, Attention) else "conv" for o in operators],
        "norm_eps": 1e-5,
    }
    assert read_shape(new) == expected


def test_a_model_with_experts() -> None:
    shape = read_shape(GOLDEN_CASES["moe-scaled"])
    router = Router(8, 3, "sigmoid", selection_bias=True, normalize=True, guard=1e-6, scale=2.5)
    assert [layer.ffn for layer in shape.layers] == [Ffn(96), *[Ffn(32, router)] * 3]
    assert (shape.experts, shape.top_k, list(shape.routers)) == (8, 3, [1, 2, 3])
    assert list(shape.attentions) == [1, 3]
    assert list(shape.convs) == [0, 2]
    assert (shape.bos, shape.eos) == (1, (7,))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_can_be_read(name: str) -> None:
    check_supported(read_shape(family_config(name)))


@pytest.mark.parametrize(("name", "theta"), [("lfm2.5-8b-a1b", 5e6), ("lfm2.5-2.6b", 1e7), ("lfm2.5-1.2b", 1e6)])
def test_theta_is_that_of_the_file(name: str, theta: float) -> None:
    """Configs of transformers 5 state it in `rope_parameters` only, older ones outside."""
    shape = read_shape(family_config(name))
    assert {attention.rope for attention in shape.attentions.values()} == {Rope(theta, 64)}


def test_other_families_in_full() -> None:
    """Of each kind one layer, from the facts of their published configs."""
    qwen2 = read_shape(family_config("r1-distill-qwen-32b"))
    rope = Rope(1e6, 128)
    assert set(qwen2.layers) == {Layer(Attention(40, 8, 128, rope, "none", bias=True), Ffn(27648))}
    assert (qwen2.tied, qwen2.eps, qwen2.eos) == (False, 1e-5, (151_643,))
    softmax = Router(128, 8, "softmax", selection_bias=False, normalize=True, guard=0.0, scale=1.0)
    qwen3_moe = read_shape(family_config("qwen3-30b-a3b"))
    assert set(qwen3_moe.layers) == {Layer(Attention(32, 4, 128, rope, "head"), Ffn(768, softmax))}
    assert read_shape(family_config("qwen3-0.6b")).tied
    olmoe = read_shape(family_config("olmoe-1b-7b"))
    router = replace(softmax, experts=64, normalize=False)
    assert set(olmoe.layers) == {Layer(Attention(16, 16, 128, Rope(1e4, 128), "all"), Ffn(1024, router))}
    lfm3 = read_shape(family_config("lfm3-1.7b"))
    full = Attention(16, 4, 128, Rope(1e6, 128, turned=32), "head", gate="head")
    sliding = replace(full, rope=Rope(1e4, 128), window=256)
    assert lfm3.layers == tuple(
        Layer({2: full, 0: sliding if n else ShortConv(7, False)}.get(n % 4, ShortConv(7, False)), Ffn(7680), True)
        for n in range(24)
    )
    mini = read_shape(family_config("trinity-mini"))
    full = Attention(32, 4, 128, None, "head", gate="value")
    sliding = replace(full, rope=Rope(1e4, 128), window=2048)
    router = Router(128, 8, "sigmoid", selection_bias=True, normalize=True, guard=1e-20, scale=2.826)
    sparse = Ffn(1024, router, shared=1024)
    assert mini.layers == tuple(
        Layer(full if n % 4 == 3 else sliding, sparse if n > 1 else Ffn(6144), post_norms=True) for n in range(32)
    )
    assert mini.embed_scale == 2048**0.5
    minimax = read_shape(family_config("minimax-m2"))
    router = replace(router, experts=256, guard=0.0, scale=1.0)
    assert set(minimax.layers) == {Layer(Attention(48, 8, 128, Rope(5e6, 64), "all"), Ffn(1536, router))}
    hunyuan = read_shape(family_config("hunyuan-a13b"))
    rope = Rope(1e4 * 1000 ** (128 / 126), 128)
    attention = Attention(32, 8, 128, rope, "head", norm_after_rope=True)
    assert set(hunyuan.layers) == {Layer(attention, Ffn(3072, replace(softmax, experts=64), shared=3072))}
    assert round(rope.theta) == 11_158_840  # what llama.cpp's converter writes
    assert hunyuan.tied
    between = read_shape(GOLDEN_CASES["qwen3_moe-dense-between"])
    assert [layer.ffn.width for layer in between.layers] == [96, 32, 96, 96, 96]


def test_a_family_may_have_been_published_under_another_type() -> None:
    raw = GOLDEN_CASES["hunyuan"] | {"architectures": ["HunYuanMoEV1ForCausalLM"]}
    assert read_shape(raw | {"model_type": "hunyuan"}) == read_shape(raw)
    with pytest.raises(UnsupportedModelError, match="HunYuanForCausalLM"):
        read_shape(raw | {"model_type": "hunyuan", "architectures": ["HunYuanForCausalLM"]})  # its dense relatives


def test_what_differs_between_layers_is_read_of_each() -> None:
    lists = {"moe_intermediate_size": [64, 32], "num_shared_expert": [1, 2], "moe_topk": [2, 3]}
    shape = read_shape(GOLDEN_CASES["hunyuan"] | lists)
    assert [layer.ffn.width for layer in shape.layers] == [64, 32]
    assert [layer.ffn.shared for layer in shape.layers] == [32, 64]
    assert [router.top_k for router in shape.routers.values()] == [2, 3]
    with pytest.raises(UnsupportedModelError, match="2 kinds of router"):
        check_supported(shape)


def test_several_tokens_end_an_answer() -> None:
    shape = read_shape(family_config("lfm2.5-8b-a1b") | {"eos_token_id": [124900, 124893]})
    assert (shape.vocab, shape.bos, shape.eos) == (128_000, 124_894, (124_900, 124_893))


def test_a_family_may_call_its_tensors_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same weights under other names, per expert and fused, are the same model."""
    raw = GOLDEN_CASES["moe"]
    names = {
        "model.embedding_norm.weight": "model.norm.weight",
        "operator_norm.weight": "input_layernorm.weight",
        "feed_forward.gate.weight": "mlp.gate.weight",
        "feed_forward.experts.{e}.w1.weight": "mlp.experts.{e}.gate_proj.weight",
        "feed_forward.experts.{e}.w2.weight": "mlp.experts.{e}.down_proj.weight",
        "feed_forward.experts.{e}.w3.weight": "mlp.experts.{e}.up_proj.weight",
    }
    toy = replace(lfm2.FAMILY, model_types=("toy",), names=names)
    monkeypatch.setitem(architectures._FAMILIES, "toy", toy)
    shape = read_shape(raw)
    tensors = plan_tensors(shape, FLOAT_SCHEMES)
    values = {s.name: goldens_tool.random_weights(s.name, s.shape) for t in tensors for s in t.sources}
    renamed = {toy.hub_name(name): value for name, value in values.items()}
    assert renamed.keys() & set(names.values()) == {"model.norm.weight"}
    assert "model.layers.2.mlp.experts.5.up_proj.weight" in renamed
    fused = {name: value for name, value in renamed.items() if ".experts." not in name}
    for n, router in shape.routers.items():
        at, experts = f"model.layers.{n}.mlp.experts", range(router.experts)
        one = {w: [renamed[f"{at}.{e}.{w}_proj.weight"] for e in experts] for w in ("gate", "up", "down")}
        fused[f"{at}.gate_up_proj"] = np.stack(
            [np.concatenate(both) for both in zip(one["gate"], one["up"], strict=True)]
        )
        fused[f"{at}.down_proj"] = np.stack(one["down"])
    for name, stored in (("renamed", renamed), ("fused", fused)):
        folder = write_checkpoint(tmp_path / name, raw | {"model_type": "toy"}, stored)
        with FolderCheckpoint(folder) as checkpoint:
            weights = CheckpointWeights(checkpoint, checkpoint.describe(), tensors)
            assert all(np.array_equal(weights(name), value) for name, value in values.items())


def changed(shape: Shape, n: int, **fields: object) -> Shape:
    """A shape whose layer n has other values in its operator or its router."""
    layer = shape.layers[n]
    operator, router = layer.operator, layer.ffn.router
    if fields.keys() <= vars(operator).keys():
        other = replace(layer, operator=replace(operator, **fields))
    else:
        assert router is not None
        other = replace(layer, ffn=replace(layer.ffn, router=replace(router, **fields)))
    return replace(shape, layers=(*shape.layers[:n], other, *shape.layers[n + 1 :]))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"rope": Rope(1e6, 16)}, "16 values of a head turn, no multiple of 32"),
        ({"width": 40}, "a head's width is 40, not a multiple of 32"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_by_name(fields: dict, problem: str) -> None:
    shape = read_shape(
        GOLDEN_CASES["moe"] | {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1}
    )
    with pytest.raises(UnsupportedModelError, match=problem):
        plan_tensors(changed(shape, 1, **fields), FLOAT_SCHEMES)
    plan_tensors(shape, FLOAT_SCHEMES)


@pytest.mark.parametrize(
    ("n", "fields", "kind"),
    [(2, {"taps": 4}, "short convolution"), (2, {"top_k": 1}, "router")],
)
def test_layers_of_several_kinds_are_refused(n: int, fields: dict, kind: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"the layers have 2 kinds of {kind}"):
        check_supported(changed(read_shape(GOLDEN_CASES["moe"]), n, **fields))


def test_the_routers_rule() -> None:
    """By hand: scores, the choice with a bias, ties to the lower number, weights without the bias."""
    logits = np.log(np.array([[1.0, 3.0, 3.0, 1.0]], np.float32))
    sigmoid = Router(4, 2, "sigmoid", selection_bias=True, normalize=False, guard=1e-6, scale=2.0)
    chosen, weights = route(logits, np.array([1, 0, 0, 0], np.float32), sigmoid)
    assert chosen.tolist() == [[0, 1]]
    assert weights == pytest.approx(np.array([[1.0, 1.5]]))
    softmax = replace(sigmoid, score="softmax", normalize=True, guard=0.5, scale=1.0)
    chosen, weights = route(logits, None, softmax)
    assert chosen.tolist() == [[1, 2]]
    assert weights == pytest.approx(np.array([[0.3, 0.3]]))
    assert np.isfinite(route(np.array([[1e4, -1e4, 0, 0]], np.float32), None, softmax)[1]).all()


# Nobody else knows the families

_FAMILY = re.compile(
    r"(?<![\w-])(lfm\d(_?moe)?|qwen\d(_moe)?|olmoe|gpt_oss|afmoe|minimax_m\d|deepseek_v\d|hunyuan_v\d_moe|glm4_moe_lite)(?![\w-])"
)
_IN_A_NAME = re.compile(r"lfm\d|qwen|olmoe|afmoe|minimax|gpt_?oss|hunyuan|glm\d", re.IGNORECASE)
_MARKER = re.compile(r"<\|[a-z_]+\|>|</?(think|tool_call|tool_response)>")
_MAY_KNOW = ("edge_lfm/architectures/", "edge_lfm/text/dialects/", "quantize/families/")


def spelt_in(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every name and every string of a module that is no docstring."""
    tree = ast.parse(source)
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name | ast.FunctionDef | ast.ClassDef | ast.Attribute | ast.arg):
            name = next(getattr(node, field) for field in ("id", "name", "attr", "arg") if hasattr(node, field))
            if _IN_A_NAME.search(name):
                yield node.lineno, f"lfm2 in a name: {name}"


def problems_of(source: str) -> list[str]:
    return [f"{line}: {text:.60}" for line, text in spelt_in(source) if _FAMILY.search(text) or _MARKER.search(text)]


def test_no_code_names_a_family_or_its_markers() -> None:
    folders = ("edge_lfm", "kernels", "quantize", "devices")
    modules = sorted({path.resolve() for folder in folders for path in (ROOT.resolve() / folder).rglob("*.py")})
    found = []
    for path in modules:
        name = path.relative_to(ROOT.resolve()).as_posix()
        if not name.startswith(_MAY_KNOW):
            found += [f"{name}:{problem}" for problem in problems_of(path.read_text(encoding="utf-8"))]
    assert len(modules) > 150
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        'if raw["model_type"] == "lfm2_moe": pass',
        'kind = {"qwen3": 1}',
        'START = "<|tool_call_start|>"',
        'text.partition("</think>")',
        "def read_lfm3(): pass",
        'f"a model of the family lfm2 {x}"',
    ],
)
def test_that_would_be_found(source: str) -> None:
    assert problems_of(source)


@pytest.mark.parametrize(
    "source", ['"""Of lfm2."""', 'EXAMPLE = "edge-lfm run lfm2-24b-int4"', "import edge_lfm", "# lfm2"]
)
def test_that_may_stand(source: str) -> None:
    assert not problems_of(source)
