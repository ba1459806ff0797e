"""The arrays that hold a layer's keys and values, and where a position lies in them. Layouts: `kernels/spec/layout.py`,
STATE. Knows no sequences."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import UsageError
from edge_lfm.shape import Attention, LatentAttention

KV_DTYPES = ("float16", "int8")
MAPPED_BYTES = 64 << 10
"""Caches from here on lie in mappings of their own."""
Window = Mapping[tuple[int, str], NDArray[Any]]
"""Of each sliding cache (layer, field of its record) the entries of some positions, as `places` finds them."""


def check_kv_dtype(name: str) -> str:
    """`name`, if it is a dtype of KV caches.

    Raises:
        UsageError: it is not.
    """
    if name not in KV_DTYPES:
        raise UsageError(f"unknown KV cache type '{name}'", hint=f"choose one of {', '.join(KV_DTYPES)}")
    return name


def make_caches(attention: Attention | LatentAttention, capacity: int, kv_dtype: str) -> dict[str, NDArray[Any]]:
    """Empty caches of one layer by the fields of its record, with room for `capacity` positions, a multiple of 16.

    Latents lie as values do, and the keys that are turned beside them as keys.
    """
    kv = attention.kv_heads
    kept = np.int8 if kv_dtype == "int8" else np.float16
    caches = {
        "keys": _zeros((kv, capacity // 16, attention.key_width, 16), kept),
        "values": _zeros((kv, capacity, attention.value_width), kept),
    }
    if kv_dtype == "int8":
        caches |= {field: _zeros((kv, capacity), np.float32) for field in ("key_scales", "value_scales")}
    return caches


def places(field: str, positions: NDArray[np.int64]) -> Any:
    """The index of positions in a cache: it gives keys as [P, kv, hd], values as [kv, P, hd], scales as [kv, P]."""
    every = slice(None)
    return (every, positions // 16, every, positions % 16) if field == "keys" else (every, positions)


def _zeros(shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """A cache whose pages take memory only once they are written. The heap promises that of no array: it raises its
    threshold for mappings to 32 MB with what is freed, and a cache of 200 MB then took 695."""
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes < MAPPED_BYTES or not hasattr(mmap, "MAP_PRIVATE"):
        return np.zeros(shape, dtype)
    try:
        pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from None
    return np.frombuffer(pages, dtype).reshape(shape)
