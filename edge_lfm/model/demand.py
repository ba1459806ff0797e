"""What a model asks of a device, from its shapes alone: the numbers that plans and estimates work with."""

from __future__ import annotations

from functools import lru_cache

from edge_lfm.devices.estimate import Demand
from edge_lfm.model.plan import EXPERT_CLASS, PackedTensor, Schemes, plan_tensors
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.shape import Shape


@lru_cache(maxsize=64)
def planned_demand(shape: Shape, schemes: Schemes) -> Demand:
    """The demand of a model that is packed so, kept: of MiniMax-M2's 15,872 experts it takes two seconds."""
    return demand_of(shape, plan_tensors(shape, schemes))


def demand_of(shape: Shape, tensors: list[PackedTensor]) -> Demand:
    """The demand of a packed model, or of one that is yet to be packed."""
    sizes = measure_sizes(shape, tensors)
    expert = next((tensor for tensor in tensors if tensor.kind == EXPERT_CLASS), None)
    return Demand(
        file_bytes=sizes.file_bytes,
        trunk_bytes=sizes.trunk_bytes,
        bytes_per_token=sizes.bytes_per_token,
        ops_per_token=2 * (sizes.active_parameters - shape.vocab * shape.hidden),
        moe_layers=len(shape.routers),
        experts=shape.experts if expert else 0,
        top_k=shape.top_k if expert else 0,
        expert_bytes=expert.nbytes if expert else 0,
    )
