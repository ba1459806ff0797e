"""How large a plan is: in the file, in parameters, and in bytes that one token reads. Needs no weights."""

from __future__ import annotations

from dataclasses import dataclass

from edge_lfm.formats.packed import Slot, packed_size
from edge_lfm.kernels.spec.schemes import SCHEMES, TILE_ROWS
from edge_lfm.model.plan import BLOCK_ALIGNMENT, EXPERT_CLASS, Piece
from edge_lfm.shape import Shape


@dataclass(frozen=True)
class SizeReport:
    """What a packed model will weigh. Bytes per token: what one decode step reads at most."""

    parameters: int
    active_parameters: int
    file_bytes: int
    bytes_per_token: int
    bits_per_weight: float
    bytes_by_class: dict[str, int]
    bits_by_class: dict[str, float]  # per weight


def slot_of(piece: Piece) -> Slot:
    """Where a piece lies in the packed file."""
    if piece.floats is not None:
        return Slot(piece.name, "F32", piece.floats.shape)
    return Slot(piece.name, "U8", (piece.nbytes,), BLOCK_ALIGNMENT if piece.aligned else 64)


def measure_sizes(shape: Shape, pieces: list[Piece]) -> SizeReport:
    """The sizes of a plan; needs no weights."""
    by_class: dict[str, int] = {}
    weights: dict[str, int] = {}
    active = per_token = 0
    for piece in pieces:
        by_class[piece.kind] = by_class.get(piece.kind, 0) + piece.nbytes
        weights[piece.kind] = weights.get(piece.kind, 0) + piece.weights
        share = shape.top_k / shape.experts if piece.kind == EXPERT_CLASS else 1.0
        if piece.name == "model.embed_tokens.weight" and not shape.tied:
            per_token += SCHEMES[piece.scheme].matrix_bytes(TILE_ROWS, shape.hidden)
        else:
            active += round(piece.weights * share)
            per_token += round(piece.nbytes * share)
    parameters = sum(piece.weights for piece in pieces)
    file_bytes = packed_size([slot_of(piece) for piece in pieces])
    bits = {kind: 8 * count / weights[kind] for kind, count in by_class.items()}
    return SizeReport(parameters, active, file_bytes, per_token, 8 * file_bytes / parameters, by_class, bits)
