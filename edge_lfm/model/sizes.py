"""How large a plan is: in the file, in parameters, and in bytes that one token reads. Needs no weights."""

from __future__ import annotations

from dataclasses import dataclass

from edge_lfm.formats.packed import TensorSpec, packed_layout
from edge_lfm.kernels.spec.schemes import SCHEMES, TILE_ROWS
from edge_lfm.model.plan import BLOCK_ALIGNMENT, EXPERT_CLASS, PackedTensor
from edge_lfm.shape import Shape


@dataclass(frozen=True)
class SizeReport:
    """What a packed model will weigh. Trunk: all before the first expert. Bytes per token: what one decode step reads
    at most."""

    parameters: int
    active_parameters: int
    file_bytes: int
    trunk_bytes: int
    bytes_per_token: int
    bits_per_weight: float
    bytes_by_class: dict[str, int]
    bits_by_class: dict[str, float]  # per weight


def spec_of(tensor: PackedTensor) -> TensorSpec:
    """Where a tensor lies in the packed file."""
    if tensor.floats is not None:
        return TensorSpec(tensor.name, "F32", tensor.floats.shape)
    return TensorSpec(tensor.name, "U8", (tensor.nbytes,), BLOCK_ALIGNMENT if tensor.aligned else 64)


def measure_sizes(shape: Shape, tensors: list[PackedTensor]) -> SizeReport:
    """The sizes of a plan; needs no weights."""
    by_class: dict[str, int] = {}
    weights: dict[str, int] = {}
    active = per_token = 0
    for tensor in tensors:
        by_class[tensor.kind] = by_class.get(tensor.kind, 0) + tensor.nbytes
        weights[tensor.kind] = weights.get(tensor.kind, 0) + tensor.weights
        share = shape.top_k / shape.experts if tensor.kind == EXPERT_CLASS else 1.0
        if tensor.name == "model.embed_tokens.weight" and not shape.tied:
            per_token += SCHEMES[tensor.matrices[0].scheme].matrix_bytes(TILE_ROWS, shape.hidden)
        else:
            active += round(tensor.weights * share)
            per_token += round(tensor.nbytes * share)
    parameters = sum(tensor.weights for tensor in tensors)
    offsets, file_bytes = packed_layout([spec_of(tensor) for tensor in tensors])
    first = (at for at, tensor in zip(offsets, tensors, strict=True) if tensor.kind == EXPERT_CLASS)
    trunk_bytes = next(first, file_bytes)
    bits = {kind: 8 * count / weights[kind] for kind, count in by_class.items()}
    per_weight = 8 * file_bytes / parameters
    return SizeReport(parameters, active, file_bytes, trunk_bytes, per_token, per_weight, by_class, bits)
