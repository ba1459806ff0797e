"""The family LFM2 and LFM2.5, dense and with experts: what their `config.json` means.

Accepts the key spellings of transformers 4.x and 5.x and of the hub, and refuses by name what is not implemented. The
canonical names of tensors are this family's own.
"""

from __future__ import annotations

from edge_lfm.architectures.decoder import check_activation, read_rope, read_top_k
from edge_lfm.architectures.family import Family
from edge_lfm.architectures.lfm2_gguf import ATTENTION, CONV, DENSE, GGUF, SPARSE
from edge_lfm.architectures.reader import ConfigReader
from edge_lfm.shape import Attention, Ffn, Layer, Router, Shape, ShortConv

_ROUTER_GUARD = 1e-6
"""Of Lfm2MoeTopKRouter in transformers 5.23."""


def read(config: ConfigReader) -> Shape:
    """The shape that a config describes.

    Raises:
        UnsupportedModelError: a value asks for something that is not implemented.
    """
    check_activation(config, "hidden_act", "hidden_activation")
    count, hidden = config.number("num_hidden_layers"), config.number("hidden_size")
    attention = _attention(config, hidden)
    conv = ShortConv(
        config.number("conv_L_cache", default=3, greatest=64),
        config.flag("conv_bias", default=False),
    )
    operators = [attention if kind == ATTENTION else conv for kind in _layer_types(config, count)]
    bos = config.ids("bos_token_id")
    return Shape(
        vocab=config.number("vocab_size"),
        hidden=hidden,
        eps=config.real("norm_eps", "block_norm_eps", default=1e-5),
        layers=tuple(Layer(operator, ffn) for operator, ffn in zip(operators, _ffns(config, count), strict=True)),
        tied=config.flag("tie_word_embeddings", "tie_embedding", default=True),
        context=config.number("max_position_embeddings", default=128_000),
        bos=bos[0] if bos else None,
        eos=config.ids("eos_token_id"),
    )


def _attention(config: ConfigReader, hidden: int) -> Attention:
    heads, kv_heads = config.number("num_attention_heads"), config.number("num_key_value_heads")
    if hidden % heads or heads % kv_heads:
        raise config.refuse(
            f"hidden_size {hidden}, num_attention_heads {heads} and num_key_value_heads {kv_heads} do not divide"
        )
    width, stated = hidden // heads, config.raw.get("head_dim")
    if stated is not None and stated != width:
        raise config.refuse(f"head_dim {stated!r} differs from hidden_size / num_attention_heads = {width}")
    if width % 2:
        raise config.refuse(f"head_dim {width} is odd, which RoPE cannot turn")
    return Attention(heads, kv_heads, width, read_rope(config, width), qk_norm="head")


def _layer_types(config: ConfigReader, count: int) -> list[str]:
    types = config.raw.get("layer_types")
    if types is None:
        indices = config.raw.get("full_attn_idxs")
        if indices is None:
            return [ATTENTION] * count
        if not isinstance(indices, list) or not all(isinstance(i, int) and 0 <= i < count for i in indices):
            raise config.refuse(f"full_attn_idxs {indices!r} does not name layers of 0..{count - 1}")
        return [ATTENTION if n in indices else CONV for n in range(count)]
    if not isinstance(types, list) or len(types) != count:
        raise config.refuse(f"layer_types must be a list of num_hidden_layers = {count} names")
    for name in types:
        if name not in (CONV, ATTENTION):
            raise config.refuse(f"layer type {name!r} is not implemented, only {CONV} and {ATTENTION}")
    return types


def _ffns(config: ConfigReader, count: int) -> list[Ffn]:
    """The FFN of each layer: the first ones of a model with experts are dense."""
    normalize = config.flag("norm_topk_prob", default=True)
    scale = config.real("routed_scaling_factor", default=1.0)
    if config.raw["model_type"] == DENSE:
        return [Ffn(_dense_width(config))] * count
    experts = config.number("num_experts")
    router = Router(
        experts,
        read_top_k(config, experts),
        score="sigmoid",
        selection_bias=config.flag("use_expert_bias", default=True),
        normalize=normalize,
        guard=_ROUTER_GUARD,
        scale=scale,
    )
    dense = min(config.number("num_dense_layers", default=0, least=0), count)
    sparse = Ffn(config.number("moe_intermediate_size"), router)
    return [Ffn(config.number("intermediate_size"))] * dense + [sparse] * (count - dense)


def _dense_width(config: ConfigReader) -> int:
    """The FFN width of a dense model, by the family's adjustment rule (Lfm2MLP of transformers)."""
    # Where both are given, transformers reads the old key.
    name = "block_ff_dim" if config.raw.get("block_ff_dim") is not None else "intermediate_size"
    width = config.number(name, greatest=1 << 20)
    if not config.flag("block_auto_adjust_ff_dim", default=True):
        return width
    width = int(2 * width / 3)
    multiplier = config.raw.get("block_ffn_dim_multiplier", 1.0)
    if multiplier is not None:
        width = int(config.positive("block_ffn_dim_multiplier", multiplier) * width)
    multiple = config.raw.get("block_multiple_of", 256)
    if isinstance(multiple, bool) or not isinstance(multiple, int) or not 0 < multiple <= 1 << 16:
        raise config.refuse(f"block_multiple_of is {multiple!r}, expected a positive integer")
    return -(-width // multiple) * multiple


FAMILY = Family(model_types=(DENSE, SPARSE), read=read, gguf=GGUF)
