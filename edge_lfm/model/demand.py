"""What a model asks of a device, from its shapes alone: the numbers that plans and estimates work with."""

from __future__ import annotations

from edge_lfm.devices.estimate import Demand
from edge_lfm.formats.packed import packed_offsets
from edge_lfm.model.plan import EXPERT_CLASS, PackedTensor
from edge_lfm.model.sizes import measure_sizes, spec_of
from edge_lfm.shape import Shape


def demand_of(shape: Shape, tensors: list[PackedTensor]) -> Demand:
    """The demand of a packed model, or of one that is yet to be packed."""
    sizes = measure_sizes(shape, tensors)
    experts = [tensor for tensor in tensors if tensor.kind == EXPERT_CLASS]
    first_expert = next((n for n, tensor in enumerate(tensors) if tensor.kind == EXPERT_CLASS), len(tensors))
    offsets = [*packed_offsets([spec_of(tensor) for tensor in tensors]), sizes.file_bytes]
    return Demand(
        file_bytes=sizes.file_bytes,
        trunk_bytes=offsets[first_expert],
        bytes_per_token=sizes.bytes_per_token,
        ops_per_token=2 * (sizes.active_parameters - shape.vocab * shape.hidden),
        moe_layers=len(shape.routers),
        experts=shape.experts if experts else 0,
        top_k=shape.top_k if experts else 0,
        expert_bytes=experts[0].nbytes if experts else 0,
    )
