"""What a conversation leaves behind: conv inputs and the KV cache of every layer, and its position.

The KV cache is float16 or int8 and grows by doubling, up to the context; where that is long, the cache of a sliding
layer is a ring, in which position p lies at p modulo its length (`memory/caches.py`). Layouts: STATE of
`kernels/spec/layout.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.errors import ContextOverflowError, DoesNotFitError, UsageError
from edge_lfm.kernels.spec.layout import STATE
from edge_lfm.memory.caches import CacheSizes
from edge_lfm.memory.scratch import CHUNK
from edge_lfm.model.kv_cache import Window, check_kv_dtype, make_caches, places
from edge_lfm.shape import Shape

_FIRST_CAPACITY = 256


@dataclass(frozen=True)
class Checkpoint:
    """What `State.go_back` needs beside the keys and values: a position, and each conv layer's inputs before it.

    window: copies of what sliding layers see before it. Without, it is good for the state that it was taken of, and
        as long as their rings hold that.
    """

    position: int
    conv: dict[int, NDArray[np.float32]]
    window: Window = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self.conv.values(), *self.window.values()))


class State:
    """The state of one sequence.

    capacity: positions that the caches have room for, a multiple of 16; those of sliding layers have at most `ring`.
    ring: 0: there are none, and all keep every position.
    oldest: the first position that rings still hold; those before it were overwritten.
    chunk: tokens of it that one step feeds at most.
    """

    draft: DraftCache | None = None
    """What a drafter keeps of the same tokens."""
    has_copies = True
    """Whether a place to go back to is kept with a copy of its window, where there are rings."""

    def __init__(self, shape: Shape, context: int, kv_dtype: str = "float16", chunk: int = CHUNK) -> None:
        self.shape, self.context, self.kv_dtype = shape, context, check_kv_dtype(kv_dtype)
        sizes = CacheSizes(shape, context, kv_dtype, chunk)
        self.ring, self.max_checkpoints, self.has_copies = sizes.ring, sizes.checkpoints, sizes.has_copies
        self.position = self.oldest = 0
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
        return own + (self.draft.state.nbytes + self.draft.unread.nbytes if self.draft is not None else 0)

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
            for n in self.shape.keeping:
                self._grow(n, min(capacity, self.ring) if self._is_ring(n) else capacity)
        except MemoryError:
            raise DoesNotFitError(
                f"no memory for a KV cache of {capacity} positions", hint="use a smaller context, or an int8 cache"
            ) from None
        self.capacity = capacity

    def make_way(self, count: int) -> None:
        """Before `count` tokens are fed: room for them. Errors as in `reserve`.

        What lies in the rings where these go is lost from then on, even if the step fails.
        """
        end = self.position + count
        self.reserve(end)
        if self.ring:
            assert self.shape.window - 1 + count <= self.ring, "the step is larger than the state was made for"
            self.oldest = max(self.oldest, end - self.ring)

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
        self.position = self.oldest = 0
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
        """The conv state and the position as they are now; keys and values need no copy for a step back."""
        return Checkpoint(self.position, {n: array.copy() for n, array in self.conv.items()})

    def with_window(self, checkpoint: Checkpoint) -> Checkpoint:
        """The same with what sliding layers see before it, so that it is good for later and for other states.

        Raises:
            UsageError: the rings do not hold that any more.
        """
        if not self.ring or checkpoint.window:
            return checkpoint
        held = self._check_held(checkpoint.position)
        window = {key: np.ascontiguousarray(self.caches[key][self._at(key, held)]) for key in self.rings}
        return replace(checkpoint, window=window)

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
        """Be as at a checkpoint again: of this state or, with its window, of one that had the same tokens up to there.

        Raises:
            UsageError: it has no window, and the rings do not hold that any more; nothing has changed.
        """
        if to.window:
            self._take_window(to.position, to.window)
        elif not self._check_held(to.position):
            self.oldest = 0
        for n, array in self.conv.items():
            array[:] = to.conv[n]
        self.position = to.position

    def copy_from(self, other: State, positions: int) -> None:
        """Take over the keys and values of another state's first positions; `go_back` sets the rest.

        Of sliding layers, what the other one's rings still hold of the window before that position; else nothing.
        """
        self.reserve(positions)
        for (_, mine), (_, theirs) in zip(self.cache_views(positions), other.cache_views(positions), strict=True):
            mine[...] = theirs
        if self.ring and self.window_before(positions).start < other.oldest:
            self.oldest = positions
        elif self.ring:
            self._take_window(positions, other.with_window(Checkpoint(positions, {})).window)
        if self.draft is not None and other.draft is not None:
            self.draft.copy_from(other.draft, positions)

    def cache_views(self, positions: int) -> Iterator[tuple[str, NDArray[Any]]]:
        """Name and part of each cache that holds the first positions, in whole blocks of 16; none of rings."""
        blocks = -(-positions // 16)
        for (n, name), values in sorted(self.caches.items()):
            if not self._is_ring(n):
                yield f"{name}.{n}", values[:, : blocks if name == "keys" else blocks * 16]

    @property
    def rings(self) -> list[tuple[int, str]]:
        """The caches of sliding layers."""
        return [key for key in sorted(self.caches) if self._is_ring(key[0])]

    def window_before(self, position: int) -> range:
        """The positions before this one that sliding layers see from it, those of the widest window."""
        return range(max(0, position - self.shape.window + 1), position)

    def holds(self, position: int, count: int = 0) -> bool:
        """Whether rings hold the window before a position, and will when `count` more tokens were fed."""
        window = self.window_before(position)
        oldest = max(self.oldest, self.position + count - self.ring) if self.ring else 0
        return not window or window.start >= oldest

    def room(self, n: int) -> int:
        """Positions that the caches of layer n have room for."""
        return min(self.capacity, self.ring) if self._is_ring(n) else self.capacity

    def _is_ring(self, n: int) -> bool:
        return self.ring > 0 and self.shape.keeping[n].window is not None

    def _check_held(self, position: int) -> range:
        """The window before a position, if the rings hold it.

        Raises:
            UsageError: they do not.
        """
        positions = self.window_before(position)
        if positions and positions.start < self.oldest:  # which is 0 where there are no rings
            raise UsageError(
                f"position {position} cannot be gone back to: sliding layers keep nothing before {self.oldest}",
                hint="keep a checkpoint with its window",
            )
        return positions

    def _take_window(self, position: int, window: Window) -> None:
        """Let the rings hold the window before a position, and nothing else."""
        positions = self.window_before(position)
        self.reserve(position)
        for key in self.rings:
            self.caches[key][self._at(key, positions)] = window[key]
        self.oldest = positions.start

    def _at(self, key: tuple[int, str], positions: range) -> Any:
        """The index of positions in a ring."""
        n, name = key
        return places(name, np.array(positions, np.int64) % self.room(n))

    def _grow(self, n: int, capacity: int) -> None:
        """Larger caches for layer n, with what the old ones hold."""
        for name, new in make_caches(self.shape.keeping[n], capacity, self.kv_dtype).items():
            old = self.caches.get((n, name))
            if old is not None:
                new[:, : old.shape[1]] = old
            self.caches[n, name] = new
            self.records[name][n] = new.ctypes.data
        self.records["capacity"][n] = capacity


class DraftCache:
    """What a drafter keeps of the tokens [first, end) of one sequence, which it has seen: keys and values of those
    before `read`, and of those behind the streams that these will be made of. It need not have seen earlier tokens: in
    its state the first one that it has seen stands at 0. Rotary positions count from each other only.

    unread: float32 [end - read, cols].
    drafter: tells which one it belongs to.
    wanted: an answer has asked for drafts, whether they pay or not.
    """

    def __init__(self, shape: Shape, context: int, kv_dtype: str, drafter: str, cols: int) -> None:
        self.state, self.drafter = State(shape, context, kv_dtype), drafter
        self.first = self.read = 0
        self.wanted = False
        self.unread = np.zeros((0, cols), np.float32)

    @property
    def end(self) -> int:
        return self.read + len(self.unread)

    def place(self, position: int) -> int:
        """Where a position of the sequence stands in its state."""
        return position - self.first

    def holds(self, position: int) -> bool:
        """Whether it has seen the token before `position`."""
        return self.first < position <= self.end

    def see(self, position: int, streams: NDArray[np.float32]) -> None:
        """Take the streams [T, cols] of the tokens from `position` on. What stood there is forgotten, and where they do
        not follow what is kept, all of it."""
        if not self.first <= position <= self.end:
            self.first = self.read = position
        self.cut(position)
        self.unread = np.concatenate((self.unread, streams))

    def cut(self, position: int) -> None:
        """Forget what lies from `position` on."""
        self.unread = self.unread[: max(0, position - self.read)]
        self.read = min(self.read, position)

    def forget(self) -> None:
        """Keep nothing."""
        self.first = 0
        self.cut(0)

    def note_read(self, count: int) -> None:
        """Its state holds the keys and values of so many more tokens."""
        self.read, self.unread = self.read + count, self.unread[count:].copy()

    def copy_from(self, other: DraftCache, positions: int) -> None:
        """Take over what another one keeps of its first positions."""
        self.first, self.read, self.unread = other.first, other.read, other.unread
        self.cut(positions)
        self.unread = self.unread.copy()
        if self.first < self.end:
            self.state.copy_from(other.state, self.place(self.read))
        else:
            self.forget()
