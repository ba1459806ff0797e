"""What a `config.json` means: the description that it is read into, and every value that is refused by name."""

from __future__ import annotations

import pytest

from edge_lfm.architectures import read_shape
from edge_lfm.errors import EdgeLfmError, UnsupportedModelError
from edge_lfm.quantize.families import FAMILY, family_config
from edge_lfm.shape import Attention, Ffn, Layer, Rope, Router, Shape, ShortConv
from tests.conftest import GOLDEN_CASES

BROKEN_CONFIGS = {
    "other type": ({"model_type": "llama"}, "llama"),
    "lfm3": ({"model_type": "lfm3"}, "lfm3"),
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
    "other head_dim": ({"head_dim": 128}, "head_dim"),
    "negative eps": ({"norm_eps": -1}, "norm_eps"),
    "null eps": ({"norm_eps": None}, "norm_eps"),
}


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


@pytest.mark.parametrize("field", list(GOLDEN_CASES["moe"]))
@pytest.mark.parametrize("value", [0, -1, 2**31, 1e300, None, "x", [], {}, True], ids=str)
def test_no_config_value_ends_in_a_traceback(field: str, value: object) -> None:
    try:
        read_shape(GOLDEN_CASES["moe"] | {field: value})
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


@pytest.mark.parametrize("name", FAMILY)
def test_published_shapes_can_be_read(name: str) -> None:
    shape = read_shape(family_config(name))
    assert {attention.width for attention in shape.attentions.values()} == {64}
    assert bool(shape.experts) == ("-a" in name)
