"""What a model asks of a device, from its shapes alone: the numbers that `devices/estimate.py` works with."""

from __future__ import annotations

from edge_lfm.devices.estimate import Demand
from edge_lfm.model.plan import EXPERT_CLASS, PackedTensor
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.shape import Shape


def demand_of(shape: Shape, tensors: list[PackedTensor], kv_dtype: str = "float16") -> Demand:
    """The demand of a packed model, or of one that is yet to be packed."""
    sizes = measure_sizes(shape, tensors)
    attentions = shape.attentions.values()
    heads = sum(a.kv_heads * (a.width + 4 if kv_dtype == "int8" else 2 * a.width) for a in attentions)
    experts = [tensor for tensor in tensors if tensor.kind == EXPERT_CLASS]
    return Demand(
        file_bytes=sizes.file_bytes,
        bytes_per_token=sizes.bytes_per_token,
        ops_per_token=2 * (sizes.active_parameters - shape.vocab * shape.hidden),
        kv_bytes_per_token=2 * heads,
        moe_layers=len(shape.routers),
        experts=shape.experts if experts else 0,
        top_k=shape.top_k if experts else 0,
        expert_bytes=experts[0].nbytes if experts else 0,
    )
