"""What a model asks of a device, from its shapes alone: the numbers that `devices/estimate.py` works with."""

from __future__ import annotations

from edge_lfm.config import ModelConfig
from edge_lfm.devices.estimate import Demand
from edge_lfm.model.plan import Piece
from edge_lfm.model.sizes import measure_sizes


def demand_of(config: ModelConfig, pieces: list[Piece], kv_dtype: str = "float16") -> Demand:
    """The demand of a packed model, or of one that is yet to be packed."""
    sizes = measure_sizes(config, pieces)
    layers = range(config.num_hidden_layers)
    attention = sum(config.is_attention(n) for n in layers)
    per_head = config.head_dim + 4 if kv_dtype == "int8" else 2 * config.head_dim
    experts = [piece for piece in pieces if piece.kind == "experts"]
    return Demand(
        file_bytes=sizes.file_bytes,
        bytes_per_token=sizes.bytes_per_token,
        ops_per_token=2 * (sizes.active_parameters - config.vocab_size * config.hidden_size),
        kv_bytes_per_token=attention * 2 * config.num_key_value_heads * per_head,
        moe_layers=sum(config.is_moe(n) for n in layers),
        experts=config.num_experts if experts else 0,
        top_k=config.num_experts_per_tok if experts else 0,
        expert_bytes=experts[0].nbytes if experts else 0,
    )
