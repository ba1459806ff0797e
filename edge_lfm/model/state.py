"""What a conversation leaves behind: conv inputs and the KV cache of every layer, and its position.

The KV cache is float16 or int8 and grows by doubling, up to the context. Layouts: `kernels/spec/layout.py`, STATE.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import ContextOverflowError, DoesNotFitError, UsageError
from edge_lfm.kernels.spec.layout import STATE
from edge_lfm.shape import Shape

_FIRST_CAPACITY = 256
KV_DTYPES = ("float16", "int8")
MAPPED_BYTES = 64 << 10
"""Caches from here on lie in mappings of their own."""


def check_kv_dtype(name: str) -> str:
    """`name`, if it is a dtype of KV caches.

    Raises:
        UsageError: it is not.
    """
    if name not in KV_DTYPES:
        raise UsageError(f"unknown KV cache type '{name}'", hint=f"choose one of {', '.join(KV_DTYPES)}")
    return name


@dataclass(frozen=True)
class Checkpoint:
    """What `State.go_back` needs beside the keys and values: a position, and each conv layer's inputs before it."""

    position: int
    conv: dict[int, NDArray[np.float32]]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.conv.values())


class State:
    """The state of one sequence. `capacity`: positions that the caches have room for, a multiple of 16."""

    draft: DraftCache | None = None
    """What a drafter keeps of the same tokens."""

    def __init__(self, shape: Shape, context: int, kv_dtype: str = "float16") -> None:
        self.shape, self.context, self.kv_dtype = shape, context, check_kv_dtype(kv_dtype)
        self.position = 0
        self.capacity = 0
        self.noted: NDArray[np.int64] = np.zeros(0, np.int64)
        self._history: dict[int, NDArray[np.float32]] = {}
        rows = {n: max(1, conv.taps - 1) for n, conv in shape.convs.items()}
        self.conv = {n: np.zeros((count, shape.hidden), np.float32) for n, count in rows.items()}
        self.caches: dict[tuple[int, str], NDArray[Any]] = {}  # (layer, field of its record)
        self.records = np.zeros(len(shape.layers), STATE)
        self.records["is_int8"] = self.kv_int8
        self.address = self.records.ctypes.data
        for n, array in self.conv.items():
            self.records["conv"][n] = array.ctypes.data
        self.reserve(min(_FIRST_CAPACITY, context))

    @property
    def kv_int8(self) -> bool:
        return self.kv_dtype == "int8"

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        own = sum(array.nbytes for array in (*self.conv.values(), *self.caches.values()))
        return own + (self.draft.state.nbytes if self.draft is not None else 0)

    @property
    def conv_width(self) -> int:
        """Tokens before one that its widest convolution sees, at least 1."""
        return max([1, *(conv.taps - 1 for conv in self.shape.convs.values())])

    def reserve(self, positions: int) -> None:
        """Make room for `positions` positions in all.

        Raises:
            ContextOverflowError: that is more than the context.
            DoesNotFitError: there is no memory for it.
        """
        self.check_room(positions)
        if positions <= self.capacity:
            return
        enough = min(max(positions, 2 * self.capacity), self.context)
        capacity = -(-enough // 16) * 16
        try:
            for n in self.shape.attentions:
                self._grow(n, capacity)
        except MemoryError:
            raise DoesNotFitError(
                f"no memory for a KV cache of {capacity} positions", hint="use a smaller context, or an int8 cache"
            ) from None
        self.capacity = capacity
        self.records["capacity"] = capacity

    def check_room(self, positions: int) -> None:
        """Refuse more positions than the context has.

        Raises:
            ContextOverflowError: they are more.
        """
        if positions > self.context:
            raise ContextOverflowError(
                f"{positions} tokens do not fit into the context of {self.context}",
                hint="shorten the prompt, or load the model with a larger context",
            )

    def reset(self) -> None:
        """Forget everything; keep the room."""
        self.position = 0
        for array in self.conv.values():
            array[:] = 0

    def note(self, tokens: Sequence[int], count: int) -> None:
        """Of the `count` tokens fed next, keep the conv inputs of these, for `checkpoint_after`.

        `noted` then holds the row that takes each token's, or -1, int64 [count]; it is empty if none is to be kept.
        """
        self.noted = np.zeros(0, np.int64)
        if not tokens:
            return
        self.noted = np.full(count, -1, np.int64)
        self.noted[list(tokens)] = np.arange(len(tokens))
        if any(len(self._history.get(n, ())) < len(tokens) for n in self.conv):
            for n in self.conv:
                self._history[n] = np.zeros((len(tokens), self.shape.hidden), np.float32)
                self.records["history"][n] = self._history[n].ctypes.data

    def drop_notes(self) -> None:
        """Give the memory of noted conv inputs back: 64 tokens' take 16 MB in the 24B."""
        self._history.clear()
        self.records["history"] = 0
        self.noted = np.zeros(0, np.int64)

    def checkpoint(self) -> Checkpoint:
        """The conv state and the position as they are now; keys and values need no copy."""
        return Checkpoint(self.position, {n: array.copy() for n, array in self.conv.items()})

    def checkpoint_after(self, before: Checkpoint, kept: int) -> Checkpoint:
        """The state after the first `kept` tokens fed last; `before` was taken before them.

        Of the tokens kept, as many as a convolution has taps before its newest must have been noted.
        """
        assert before.position <= before.position + kept <= self.position
        conv = {}
        for n, array in self.conv.items():
            first = max(0, kept - len(array))
            rows = self.noted[first:kept]
            assert (rows >= 0).all(), "these tokens were not noted"
            inputs = np.concatenate([before.conv[n], self._history[n][rows]]) if kept else before.conv[n]
            conv[n] = inputs[len(inputs) - len(array) :].copy()
        return Checkpoint(before.position + kept, conv)

    def go_back(self, to: Checkpoint) -> None:
        """Be as at a checkpoint again: of this state or of one that had the same tokens up to there."""
        for n, array in self.conv.items():
            array[:] = to.conv[n]
        self.position = to.position

    def copy_from(self, other: State, positions: int) -> None:
        """Take over the keys and values of another state's first positions; `go_back` sets the rest."""
        self.reserve(positions)
        rows = -(-positions // 16) * 16
        for (n, field), array in self.caches.items():
            count = rows // 16 if field == "keys" else rows
            array[:, :count] = other.caches[n, field][:, :count]
        if self.draft is not None and other.draft is not None:
            self.draft.copy_from(other.draft, positions)

    def cache_views(self, positions: int) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and part of each cache that holds the first positions, in whole blocks of 16."""
        blocks = -(-positions // 16)
        for (n, field), values in sorted(self.caches.items()):
            yield f"{field}.{n}", values[:, : blocks if field == "keys" else blocks * 16]

    def _grow(self, n: int, capacity: int) -> None:
        """Larger caches for layer n, with what the old ones hold."""
        kv, width = self.shape.attentions[n].kv_heads, self.shape.attentions[n].width
        kept = np.int8 if self.kv_int8 else np.float16
        fields: dict[str, tuple[tuple[int, ...], type]] = {
            "keys": ((kv, capacity // 16, width, 16), kept),
            "values": ((kv, capacity, width), kept),
        }
        if self.kv_int8:
            fields |= {"key_scales": ((kv, capacity), np.float32), "value_scales": ((kv, capacity), np.float32)}
        for field, (shape, dtype) in fields.items():
            new = _zeros(shape, dtype)
            old = self.caches.get((n, field))
            if old is not None:
                new[:, : old.shape[1]] = old
            self.caches[n, field] = new
            self.records[field][n] = new.ctypes.data


class DraftCache:
    """What a drafter keeps of one sequence: keys and values of the tokens [first, end).

    They are of the tokens that the target has read while the drafter looked on. It need not have seen those before.
    wanted: whether it is to look on.
    """

    def __init__(self, shape: Shape, context: int, kv_dtype: str) -> None:
        self.state = State(shape, context, kv_dtype)
        self.first = self.end = 0
        self.wanted = True

    def extend(self, position: int, count: int) -> None:
        """Make room for `count` tokens from `position` on. What stood there is forgotten, and where they do not follow
        what is kept, all of it."""
        if not self.first <= position <= self.end:
            self.first = position
        self.end = position + count
        self.state.reserve(self.end)

    def holds(self, position: int) -> bool:
        """Whether it has seen the token before `position`."""
        return self.first < position <= self.end

    def forget(self) -> None:
        """Keep nothing."""
        self.first = self.end = 0

    def copy_from(self, other: DraftCache, positions: int) -> None:
        """Take over what another one keeps of its first positions."""
        self.first, self.end = other.first, min(other.end, positions)
        if self.first < self.end:
            self.state.copy_from(other.state, self.end)
        else:
            self.forget()


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
