"""The tensors of latent attention: those that a packed model has, and how they are cut from those of a checkpoint.

A checkpoint stacks for each head the rows that make its plain key on those that make its value; canonical are two
matrices, the first with each head's part transposed, as queries are multiplied by it. Rows whose values are turned
stand in the order of `LatentAttention.interleaved`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.shape import LatentAttention, Shape


@dataclass(frozen=True)
class Cut:
    """How a canonical tensor is taken from a stored one.

    shape: of the stored one. take: its values, or its rows of blocks, -> the canonical ones.
    whole_rows: the rows of the one are rows of the other, so that blocks along them can be taken over.
    source: the stored one's canonical name; a file may have the canonical tensor beside or in its place.
    """

    source: str
    shape: tuple[int, ...]
    take: Callable[[NDArray[Any]], NDArray[Any]]
    whole_rows: bool


def cuts_of(shape: Shape) -> dict[str, Cut]:
    """Of each canonical tensor that a checkpoint stores otherwise, how it is taken from there."""
    cuts = {}
    for n, latent in shape.latents.items():
        at, heads = f"model.layers.{n}.self_attn", latent.heads
        stacked = (heads * (latent.plain + latent.value), latent.rank)
        both = f"{at}.kv_b_proj.weight"
        cuts[f"{at}.k_b_proj.weight"] = Cut(both, stacked, _keys_of(latent), whole_rows=False)
        cuts[f"{at}.v_b_proj.weight"] = Cut(both, stacked, _values_of(latent), whole_rows=True)
        if latent.interleaved:
            for name, heads, plain, columns in _turned(shape, n):
                rows = heads * (plain + latent.rope.width)
                cuts[name] = Cut(name, (rows, columns), _in_halves(heads, plain), whole_rows=True)
    return cuts


def turns_of(shape: Shape) -> dict[str, Callable[[NDArray[Any]], NDArray[Any]]]:
    """Of each canonical tensor with values that are turned, how its rows are put in pairs (2i, 2i + 1)."""
    turned = [matrix for n in shape.latents for matrix in _turned(shape, n)]
    return {name: _in_turn(heads, plain) for name, heads, plain, _ in turned}


def _turned(shape: Shape, n: int) -> list[tuple[str, int, int, int]]:
    """The tensors of a layer whose values are turned: name, heads, rows of a head that are not turned, columns."""
    at, latent = f"model.layers.{n}.self_attn", shape.latents[n]
    queries = "q_proj" if latent.query_rank is None else "q_b_proj"
    return [
        (f"{at}.{queries}.weight", latent.heads, latent.plain, latent.query_rank or shape.hidden),
        (f"{at}.kv_a_proj.weight", 1, latent.rank, shape.hidden),
    ]


def _keys_of(latent: LatentAttention) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def take(stored: NDArray[Any]) -> NDArray[Any]:
        """[heads (plain + value), R] -> [heads R, plain]."""
        heads = stored.reshape(latent.heads, -1, stored.shape[1])[:, : latent.plain]
        return np.ascontiguousarray(heads.transpose(0, 2, 1)).reshape(-1, latent.plain)

    return take


def _values_of(latent: LatentAttention) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def take(stored: NDArray[Any]) -> NDArray[Any]:
        """[heads (plain + value), R] -> [heads value, R]."""
        heads = stored.reshape(latent.heads, -1, stored.shape[1])[:, latent.plain :]
        return np.ascontiguousarray(heads).reshape(-1, stored.shape[1])

    return take


def _in_halves(heads: int, plain: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def take(stored: NDArray[Any]) -> NDArray[Any]:
        """Of each head, the rows behind the first `plain`: those of even number, then those of odd."""
        rows = stored.reshape(heads, -1, *stored.shape[1:])
        parts = (rows[:, :plain], rows[:, plain::2], rows[:, plain + 1 :: 2])
        return np.concatenate(parts, 1).reshape(stored.shape)

    return take


def _in_turn(heads: int, plain: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def take(rows: NDArray[Any]) -> NDArray[Any]:
        """The opposite of `_in_halves`."""
        each = rows.reshape(heads, -1, *rows.shape[1:])
        halves = np.stack(np.split(each[:, plain:], 2, axis=1), axis=2)
        return np.concatenate((each[:, :plain], halves.reshape(heads, -1, *rows.shape[1:])), 1).reshape(rows.shape)

    return take
