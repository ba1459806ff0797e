"""What the inputs of a matrix have to do with one another: sums of their products, which error feedback rounds by.

A wide matrix's columns are cut into pieces, and products between pieces are left out: those of the 24B's dense FFNs
would take 554 MB each, in pieces they take 69 MB. Knows arrays and canonical names only.
"""

from __future__ import annotations

import re

from edge_lfm.kernels.spec.layout import GROUP
from edge_lfm.kernels.spec.ref import F32

WIDEST = 2048
"""The most columns of a piece."""
_SAME_INPUTS = re.compile(r"\.(?:(w3)|([kv]_proj))\.weight$")


def input_name(matrix: str) -> str:
    """The matrix under whose name the inputs of `matrix` are kept: w1 for w3, q for k and v."""
    return _SAME_INPUTS.sub(lambda match: ".w1.weight" if match[1] else ".q_proj.weight", matrix)


def piece_columns(columns: int) -> int:
    """Columns of a piece, whole groups: the widest equal pieces of at most `WIDEST` columns."""
    groups = columns // GROUP
    return next(GROUP * groups // n for n in range(1, groups + 1) if groups % n == 0 and columns // n <= WIDEST)


def moments_shape(columns: int) -> tuple[int, int, int]:
    """[pieces, k, k] of a matrix's columns."""
    k = piece_columns(columns)
    return columns // k, k, k


def moments_of(x: F32, others: F32 | None = None) -> F32:
    """Inputs [T, K] -> sums of their products with one another, or with `others` [T, K]: [pieces, k, k]."""
    left = _pieces(x)
    right = left if others is None else _pieces(others)
    moments: F32 = left.transpose(0, 2, 1) @ right
    return moments


def _pieces(x: F32) -> F32:
    return x.reshape(len(x), -1, piece_columns(x.shape[1])).transpose(1, 0, 2)
