"""A sequence that the model has read: its tokens, its state, and the places that it can go back to.

Keys and values of a prefix stay valid whatever follows; the conv state does not, so a copy of it is kept where
sequences are likely to part: at the turns of a conversation, at the starts of prefill chunks and before the last
token of a prompt. Knows token ids; does not know what a turn is.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.backend import Backend
from edge_lfm.errors import CancelledError
from edge_lfm.model.state import MAPPED_BYTES, Checkpoint, State

MOST_CHECKPOINTS = 64
"""Half a megabyte each in the 24B: together less than the keys and values of 1,600 tokens."""


class TokenSequence:
    """`ids`: the tokens fed so far, as many as the state's position. `holder`: who is to find it again, if anyone."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.ids = array("i")
        self.checkpoints: dict[int, Checkpoint] = {}
        self.holder: Callable[[], Any] | None = None

    @property
    def held(self) -> bool:
        """Whether a conversation that is still there owns it."""
        return self.holder is not None and self.holder() is not None

    @property
    def nbytes(self) -> int:
        """Memory in use: keys and values of the tokens so far, the conv state and its copies."""
        return nbytes_at(self.state, len(self.ids)) + sum(c.nbytes for c in self.checkpoints.values())

    def go_back(self, position: int) -> None:
        """Forget the tokens from `position` on: a place that a checkpoint is kept of, the start, or the end."""
        if position == len(self.ids):
            return
        if position == 0:
            self.state.reset()
        else:
            self.state.go_back(self.checkpoints[position])
        self.checkpoints = {p: c for p, c in self.checkpoints.items() if p <= position}
        del self.ids[position:]

    def fork(self, position: int, state: State) -> TokenSequence:
        """A copy of the first tokens in a fresh state; this sequence stays as it is."""
        copy = TokenSequence(state)
        state.copy_from(self.state, position)
        here = position == len(self.ids)
        if position:
            state.go_back(self.state.checkpoint() if here else self.checkpoints[position])
        copy.checkpoints = {p: c for p, c in self.checkpoints.items() if p <= position}
        copy.ids = self.ids[:position]
        return copy

    def feed(
        self,
        runner: Backend,
        ids: Sequence[int],
        turns: Sequence[int] = (),
        cancelled: Callable[[], bool] | None = None,
    ) -> NDArray[np.float32]:
        """Feed the next tokens in one step; the logits of the last [vocab].

        Args:
            ids: at most `runner.chunk`.
            turns: positions after some of these tokens that the sequence shall be able to go back to.
            cancelled: as in `Backend.run`; a step that was cancelled leaves the sequence as it was.
        """
        state, first = self.state, len(self.ids)
        tokens = np.array(ids, np.int64)
        if len(tokens) == 1 and not turns:
            logits = runner.run(tokens, state)
        else:
            width = max(1, state.config.conv_L_cache - 1)
            noted = sorted({t for p in turns for t in range(max(0, p - first - width), p - first)})
            before = state.checkpoint()
            try:
                logits = runner.run(tokens, state, noted=noted, cancelled=cancelled)
            except CancelledError:
                state.go_back(before)
                raise
            for position in turns:
                self._remember(state.checkpoint_after(before, position - first))
            if first:
                self._remember(before)
        self.ids.extend(int(i) for i in ids)
        return logits

    def draft(self, runner: Backend, ids: Sequence[int]) -> NDArray[np.float32]:
        """Feed tokens in one step that can be undone behind any of them; logits [T, vocab] of all."""
        rows = runner.run(np.array(ids, np.int64), self.state, all_logits=True, noted=range(len(ids)))
        self.ids.extend(ids)
        return rows

    def undo(self, to: Checkpoint) -> None:
        """Take back the last tokens, to a checkpoint that the caller has kept."""
        self.state.go_back(to)
        del self.ids[to.position :]

    def _remember(self, checkpoint: Checkpoint) -> None:
        """Keep a place to go back to; of too many, the one goes whose neighbours are nearest to each other."""
        self.checkpoints[checkpoint.position] = checkpoint
        if len(self.checkpoints) > MOST_CHECKPOINTS:
            places = sorted(self.checkpoints)
            gaps = [later - earlier for earlier, later in zip(places, places[2:], strict=False)]
            del self.checkpoints[places[1 + int(np.argmin(gaps))]]


def nbytes_at(state: State, positions: int) -> int:
    """Memory that a state takes when it holds so many positions; of large caches, those beyond are not touched."""
    conv = sum(array.nbytes for array in state.conv.values())
    if not state.capacity:
        return conv
    small = sum(array.nbytes for array in state.caches.values() if array.nbytes < MAPPED_BYTES)
    large = sum(array.nbytes for array in state.caches.values()) - small
    return conv + small + large * min(positions, state.capacity) // state.capacity
