"""Weights as the tiles of 16 rows that kernels read, packed and unpacked in plain NumPy, by their scheme.

The definition of the packed bytes: the compiled encoders and look-ups are tested against it. Knows arrays only; each
family of schemes has its own file in `definitions/`.

Legend: N rows, K columns.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from edge_lfm.kernels.spec import definitions
from edge_lfm.kernels.spec.ref import F32, Quantized
from edge_lfm.kernels.spec.schemes import Scheme
from edge_lfm.kernels.spec.vectors import U8


def definition(scheme: Scheme) -> Any:
    """The file of the scheme's family (`definitions/__init__.py` says what it has)."""
    return import_module(f"{definitions.__name__}.{scheme.family}")


def pack_tiles(weights: Any, scheme: Scheme) -> U8:
    """Weights [N, K] as the family keeps them -> uint8 [bytes], rows padded with zeros."""
    packed: U8 = definition(scheme).pack(weights, scheme)
    return packed


def unpack_tiles(packed: U8, scheme: Scheme, rows: int, cols: int) -> F32 | Quantized:
    """The weights of tiles: float32 [rows, cols], or integers with their scales."""
    stored = definition(scheme).unpack(packed, scheme, rows, cols)
    unpacked: F32 | Quantized = stored.quantized() if hasattr(stored, "quantized") else stored
    return unpacked
