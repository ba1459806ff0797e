"""A sequence that the model has read: its tokens, its state, and the places that it can go back to.

Keys and values of a prefix stay valid whatever follows; the conv state and what sliding layers see do not, so a copy
of those is kept where sequences are likely to part: at the turns of a conversation, now and then in a prompt, and at
places that draw closer to each other before its end, where a document gives way to a question. Where such a copy is
large, a place lasts while the rings of sliding layers hold its window; one that they are about to lose is copied then,
if there is memory to spare.
Knows token ids; does not know what a turn is.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from edge_lfm.engine.feeds import Contenders, Feed, Logits, Steps
from edge_lfm.errors import CancelledError
from edge_lfm.model.kv_cache import MAPPED_BYTES
from edge_lfm.model.state import Checkpoint, State

CHECKPOINT_TOKENS = 128
"""Between two checkpoints that are kept while a prompt is read, beside those at turns."""

BEFORE_END = (128, 64, 32, 16)
"""Tokens of a prompt that follow its last checkpoints. So a prompt that parts from it that close to its end is read
from no farther back than the end is away."""

COPY_TOKENS = 512
"""Between two places of which the rings' windows are copied, where there is one copy at a time: a step of a prompt."""

OBJECT_BYTES = 32 << 10
"""Of a sequence's objects beside the bytes of its arrays. Thousands of short prompts of a small model took a third more
than was counted without them."""


Spare = Callable[[int], bool]
"""Whether there is memory for so many bytes beyond what was planned."""


class TokenSequence:
    """`ids`: the tokens fed so far, as many as the state's position. `holder`: who is to find it again, if anyone."""

    def __init__(self, state: State, spare: Spare = lambda _: False) -> None:
        self.state, self._spare = state, spare
        self.ids = array("i")
        self._places: dict[int, Checkpoint] = {}
        self.holder: Callable[[], Any] | None = None

    @property
    def checkpoints(self) -> dict[int, Checkpoint]:
        """The places that it can go back to."""
        if self.state.has_copies:
            return self._places
        return {place: c for place, c in self._places.items() if c.window or self.state.holds(place)}

    @property
    def copied_bytes(self) -> int:
        """Of the copies that there was memory to spare for."""
        return 0 if self.state.has_copies else sum(c.nbytes for c in self._places.values() if c.window)

    def drop_copies(self) -> bool:
        """Give these back; whether there were any."""
        had = self.copied_bytes > 0
        if had:
            self._places = {place: c for place, c in self._places.items() if not c.window}
        return had

    @property
    def held(self) -> bool:
        """Whether a conversation that is still there owns it."""
        return self.holder is not None and self.holder() is not None

    @property
    def nbytes(self) -> int:
        """Memory in use: keys and values of the tokens so far, the conv state and its copies, and the objects."""
        return OBJECT_BYTES + nbytes_at(self.state, len(self.ids)) + sum(c.nbytes for c in self.checkpoints.values())

    def go_back(self, position: int) -> None:
        """Forget the tokens from `position` on: a place that a checkpoint is kept of, the start, or the end."""
        if position == len(self.ids):
            return
        if position == 0:
            self.state.reset()
        else:
            self.state.go_back(self.checkpoints[position])
        self._places = {p: c for p, c in self.checkpoints.items() if p <= position}
        del self.ids[position:]

    def fork(self, position: int, state: State) -> TokenSequence:
        """A copy of the first tokens in a fresh state; this sequence stays as it is."""
        copy = TokenSequence(state, self._spare)
        state.copy_from(self.state, position)
        here = position == len(self.ids)
        if position:
            state.go_back(self.state.checkpoint() if here else self.checkpoints[position])
        copy._places = {p: c for p, c in self.checkpoints.items() if p <= position}
        copy.ids = self.ids[:position]
        return copy

    def feed(self, token: int, contenders: Contenders | None = None) -> Steps[Logits]:
        """Feed the next token of an answer; its logits [1, vocab]. contenders: as of `Feed`."""
        self._save_place(1)
        rows: Logits = yield Feed(self.state, (token,), contenders=contenders)
        self.ids.append(token)
        return rows

    def read(self, ids: Sequence[int], turns: Sequence[int] = (), last: bool = True) -> Steps[Logits]:
        """Feed the next tokens, of a prompt or of what is known already, as many as the step has room for.

        The logits of the last [1, vocab], if they are wanted and it was fed; else [0, vocab].

        Args:
            turns: positions after some of these tokens that the sequence shall be able to go back to.
            last: whether the logits are wanted.
        """
        first, width = len(self.ids), self.state.conv_width
        noted = sorted({t for p in turns for t in range(max(0, p - first - width), p - first)})
        logits: Literal["none", "last"] = "last" if last else "none"
        feed = Feed(self.state, ids, logits, noted, cancellable=True, divisible=True)
        before, rows = yield from self._feed_undoable(feed)
        end = self.state.position
        for position in turns:
            if position <= end:
                self.remember(self.state.checkpoint_after(before, position - first))
        if first - max((p for p in self.checkpoints if p < first), default=0) >= CHECKPOINT_TOKENS:
            self.remember(before)
        self.ids.extend(int(i) for i in ids[: end - first])
        return rows

    def read_all(self, ids: Sequence[int]) -> Steps[Logits]:
        """Feed the next tokens in as many steps as it takes; the logits of the last [1, vocab]."""
        end = len(self.ids) + len(ids)
        while (left := end - len(self.ids)) > 0:
            rows = yield from self.read(ids[-left:])
        return rows

    def draft(self, ids: Sequence[int], divisible: bool = False) -> Steps[tuple[Checkpoint, Logits]]:
        """Feed tokens in one step that can be undone behind any of them.

        The checkpoint before them, for `State.checkpoint_after` and `undo`; the logits [T, vocab] of all.

        Args:
            divisible: feed only as many as the step has room for; there are logits of no others.
        """
        feed = Feed(self.state, ids, "all", range(len(ids)), cancellable=True, divisible=divisible)
        before, rows = yield from self._feed_undoable(feed)
        self.ids.extend(ids[: len(rows)])
        return before, rows

    def _feed_undoable(self, feed: Feed) -> Steps[tuple[Checkpoint, Logits]]:
        """A step that leaves the sequence as it was when it is cancelled; the checkpoint before it, and its logits."""
        self._save_place(len(feed.token_ids))
        before = self.state.checkpoint()
        try:
            rows = yield feed
        except CancelledError:
            self.state.go_back(before)
            raise
        return before, rows

    def undo(self, to: Checkpoint) -> None:
        """Take back the last tokens, to a checkpoint that the caller has kept."""
        self.state.go_back(to)
        del self.ids[to.position :]

    def remember(self, checkpoint: Checkpoint) -> None:
        """Keep a place to go back to; of too many, the one goes whose neighbours are nearest to each other.

        The newest ones lie close to each other on purpose, and go last.
        """
        self._places = self.checkpoints
        if checkpoint.window and not self.state.has_copies:
            self.drop_copies()
        self._places[checkpoint.position] = self.state.with_window(checkpoint) if self.state.has_copies else checkpoint
        if len(self._places) > self.state.max_checkpoints:
            places = sorted(self._places)
            near_end, around = places[-1] - CHECKPOINT_TOKENS, zip(places, places[1:], places[2:], strict=False)
            _, _, gone = min((place > near_end, later - earlier, place) for earlier, place, later in around)
            del self._places[gone]

    def _save_place(self, count: int) -> None:
        """Before so many tokens are fed: copy the window of a place that the rings will lose, where places have no
        copies. There is one copy, of the last place that none lay near before."""
        state = self.state
        if state.has_copies or not state.ring:
            return
        going = [p for p, c in self._places.items() if not c.window and state.holds(p) and not state.holds(p, count)]
        saved = max((p for p, c in self._places.items() if c.window), default=None)
        if not going or (saved is not None and min(going) - saved < COPY_TOKENS):
            return
        window_bytes = sum(state.caches[key].nbytes // state.room(key[0]) for key in state.rings) * len(
            state.window_before(min(going))
        )
        if saved is not None or self._spare(window_bytes):
            self.drop_copies()
            self._places[min(going)] = state.with_window(self._places[min(going)])


def places_in(count: int) -> set[int]:
    """Where a prompt of `count` tokens may part from later ones, as far as its length tells."""
    if count <= CHECKPOINT_TOKENS:
        return {count - 1}
    return {*range(CHECKPOINT_TOKENS, count, CHECKPOINT_TOKENS), *(count - n for n in BEFORE_END), count - 1}


def nbytes_at(state: State, positions: int) -> int:
    """Memory that a state takes when it holds so many positions; of large caches, those beyond are not touched."""
    conv = sum(array.nbytes for array in state.conv.values())
    if state.draft is not None:
        conv += nbytes_at(state.draft.state, positions) + state.draft.unread.nbytes
    return conv + sum(_touched_bytes(array, positions, state.room(n)) for (n, _), array in state.caches.items())


def _touched_bytes(cache: NDArray[Any], positions: int, room: int) -> int:
    if cache.nbytes < MAPPED_BYTES or not room:
        return cache.nbytes
    return cache.nbytes * min(positions, room) // room
