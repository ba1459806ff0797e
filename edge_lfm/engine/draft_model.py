"""A drafter on the kernels and the team of its target: what it keeps of each token, and its blocks of drafts.

It looks on at every step of the target. Keys and values of the tapped streams are made when drafts are asked for, or
when a sequence has a pass full of them; drafts are one pass of the slots of all sequences over them, and then a small
matrix for each slot. Rows are bit-equal whatever else is in a pass. The network: `reference_drafter.py`. Knows streams
and caches; does not decide how many drafts are worth a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.step import Step
from edge_lfm.errors import DoesNotFitError
from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.load.team import Team
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, EXPERT_SCRATCH_BYTES, GROUP, PRODUCT
from edge_lfm.memory.faults import MapGuard
from edge_lfm.memory.scratch import DRAFT_CHUNK, blocks_together
from edge_lfm.model import drafter_plan as names
from edge_lfm.model.binding import Binding
from edge_lfm.model.drafter_binding import bind_drafter
from edge_lfm.model.packed_drafter import PackedDrafter
from edge_lfm.model.state import DraftCache


@dataclass(frozen=True)
class Block:
    """Drafts that one sequence is to have.

    anchor: its newest token, which stands at `position`. count: drafts at most; they end where the chance that all are
    right falls below `least`.
    """

    cache: DraftCache
    position: int
    anchor: int
    count: int
    least: float


Made = tuple[list[int], list[float]]
"""Drafts, and how likely each is to be right if those before it are."""


class DraftModel:
    """`target`: the binding of the model that it drafts for; `chunk`: rows of that model's steps at most; `threads`:
    how many of the team run now."""

    def __init__(
        self,
        packed: PackedDrafter,
        target: Binding,
        kernels: Kernels,
        team: Team,
        chunk: int,
        threads: Callable[[], int],
    ) -> None:
        self.packed, self.drafter, self._kernels, self._team, self._threads = (
            packed,
            packed.drafter,
            kernels,
            team,
            threads,
        )
        self._parts = bind_drafter(packed, target)
        self._guard = MapGuard(kernels, *packed.span)
        body, taps = self.drafter.body, len(self.drafter.taps)
        self._cols = taps * body.hidden
        self.step = Step(body, self._parts.binding, max(DRAFT_CHUNK, self.drafter.slots), team.count, self._cols)
        self.streams = np.zeros((chunk, self._cols), np.float32)
        """Of the rows of the target's step, after each tapped layer."""
        self._rounded = np.zeros((DRAFT_CHUNK, self._cols), np.int8)
        self._records = np.zeros((DRAFT_CHUNK, self._cols // GROUP * ACTIVATION_BYTES), np.uint8)
        self._product = np.zeros(1, PRODUCT)
        self._weight = packed.floats(names.CONFIDENCE)[0]
        self._bias = float(packed.floats(names.CONFIDENCE_BIAS)[0])
        self._together, rank = blocks_together(self.drafter.slots), self.drafter.rank
        self._markov = (
            np.zeros((self._together, rank), np.float32),
            np.zeros((self._together, rank), np.int8),
            np.zeros((self._together, rank // GROUP * ACTIVATION_BYTES), np.uint8),
        )

    @property
    def lost_pages(self) -> int:
        """Pages of the drafter's file that could not be read."""
        return self._guard.lost_pages

    def close(self) -> None:
        """Unmap the file."""
        self._guard.close()
        self.packed.close()

    def new_cache(self, context: int, kv_dtype: str) -> DraftCache:
        """The cache of a new sequence."""
        fingerprint = self.packed.fingerprint
        return DraftCache(self.drafter.body, context + self.drafter.slots, kv_dtype, fingerprint, self._cols)

    def take(self, tap: int, stream: NDArray[np.float32]) -> None:
        """Note the target's residual stream [T, H] after the layer of this tap."""
        hidden = stream.shape[1]
        self.streams[: len(stream), tap * hidden : (tap + 1) * hidden] = stream

    def look_on(self, feeds: Sequence[Feed]) -> None:
        """Take what the step under way has shown of its feeds' tokens; their states still stand before them."""
        row = 0
        for feed in feeds:
            position, cache, end = feed.state.position, feed.state.draft, row + len(feed.token_ids)
            while cache is not None and row < end:
                part = self.streams[row : min(end, row + DRAFT_CHUNK)]
                cache.see(position, part)
                position, row = position + len(part), row + len(part)
                if len(cache.unread) >= DRAFT_CHUNK:
                    self._read([(cache, DRAFT_CHUNK)])
            row = end

    def catch_up(self, caches: Sequence[DraftCache]) -> None:
        """Read all that they have seen, in as few passes as there is room for."""
        together: list[tuple[DraftCache, int]] = []
        for cache in caches:
            if sum(count for _, count in together) + len(cache.unread) > DRAFT_CHUNK:
                self._read(together)
                together = []
            together.append((cache, len(cache.unread)))
        self._read(together)

    def _read(self, parts: Sequence[tuple[DraftCache, int]]) -> None:
        """Make keys and values of the first so many unread tokens of each, of DRAFT_CHUNK together at most."""
        parts = [
            (cache, count) for cache, count in parts if count and _has_room(cache, cache.place(cache.read) + count)
        ]
        if not parts:
            return
        for cache, _ in parts:
            cache.state.position = cache.place(cache.read)
        self._reserve([cache.state.capacity for cache, _ in parts])
        self.step.begin([Feed(cache.state, np.zeros(count, np.int64), "none") for cache, count in parts])
        self._read_rows(np.concatenate([cache.unread[:count] for cache, count in parts]))
        if self.step.failed and len(parts) > 1:  # it does not tell whose fault it was
            for part in parts:
                self._read([part])
            return
        for cache, count in parts:
            if self.step.failed:
                cache.forget()
            else:
                cache.note_read(count)

    def draft(self, blocks: Sequence[Block]) -> list[Made]:
        """The drafts of all blocks, each of another sequence, in as few passes as there is room for."""
        for block in blocks:
            block.cache.cut(block.position)
        self.catch_up([block.cache for block in blocks])
        ready = [block for block in blocks if self._is_ready(block)]
        made: dict[int, Made] = {}
        for first in range(0, len(ready), self._together):
            some = ready[first : first + self._together]
            made |= zip(map(id, some), self._pass(some), strict=True)
        return [made.get(id(block), ([], [])) for block in blocks]

    def _is_ready(self, block: Block) -> bool:
        """Whether its tokens were read, and there is memory for its slots."""
        cache, position = block.cache, block.position
        return cache.holds(position) and _has_room(cache, cache.place(position) + self.drafter.slots)

    def _pass(self, blocks: Sequence[Block]) -> list[Made]:
        """One pass of the slots of these blocks, and what follows from it slot by slot."""
        slots, feeds = self.drafter.slots, list[Feed]()
        asked = min(slots, max(block.count for block in blocks))
        for block in blocks:
            state, ids = block.cache.state, [block.anchor] + [self.drafter.mask] * (slots - 1)
            state.position = block.cache.place(block.position)
            feeds.append(Feed(state, ids, asked, block=True))
        self._reserve([feed.state.capacity for feed in feeds])
        self.step.begin(feeds)
        forward, address, stages = self._kernels.forward, self.step.address, 2 + 3 * len(self.drafter.body.layers)
        self._run(lambda n: forward(address, n, 0, stages))
        if self.step.failed and len(blocks) > 1:  # it does not tell whose fault it was
            return [self._pass([block])[0] for block in blocks]
        if self.step.failed:
            blocks[0].cache.forget()
            return [([], [])]
        return self._follow(blocks, asked)

    def _follow(self, blocks: Sequence[Block], asked: int) -> list[Made]:
        """The drafts of a pass: of each slot the likeliest token after the draft before it. asked: slots of each block
        that have logits."""
        made: list[Made] = [([], []) for _ in blocks]
        last, chances = [block.anchor for block in blocks], [1.0] * len(blocks)
        for slot in range(asked):
            going = [
                n for n, b in enumerate(blocks) if slot < b.count and len(made[n][0]) == slot and chances[n] >= b.least
            ]
            if not going:
                break
            confidences = self._confidences_and_logits(slot, last, asked)
            for n in going:
                last[n] = int(np.argmax(self.step.logit_rows[n * asked + slot]))
                chances[n] *= confidences[n]
                made[n][0].append(last[n])
                made[n][1].append(confidences[n])
        return made

    def _confidences_and_logits(self, slot: int, last: Sequence[int], asked: int) -> list[float]:
        """Add to the logits of a slot of every block what the token before it implies; the confidences."""
        rows, rounded, records = self._markov
        for row, token in zip(rows, last, strict=False):
            self._kernels.unpack_row(self._parts.markov_in.ctypes.data, token, row.ctypes.data)
        addresses = (rows.ctypes.data, rounded.ctypes.data, records.ctypes.data)
        self._kernels.round_activations(self.step.address, *addresses, len(last) * self.drafter.rank)
        logits = self.step.logit_rows
        out, stride = logits[slot].ctypes.data, asked * logits.strides[0]
        self._multiply(self._parts.markov_out, self._markov, out, stride, len(last), add=True)
        normed = self.step.array("normed", asked * len(last))[slot::asked]
        seen = (np.concatenate(pair) for pair in zip(normed, rows, strict=False))
        return [_sigmoid(float(self._weight @ row) + self._bias) for row in seen]

    def _read_rows(self, streams: NDArray[np.float32]) -> None:
        """Keys and values of the rows of this step, by their streams [T, taps * H]."""
        step, parts, kernels, tokens = self.step, self._parts, self._kernels, len(streams)
        inputs = (np.ascontiguousarray(streams), self._rounded, self._records)
        addresses = [array.ctypes.data for array in inputs]
        kernels.round_activations(step.address, *addresses, streams.size)
        hidden = self.drafter.body.hidden
        self._multiply(parts.fc, inputs, step.array("x", tokens).ctypes.data, hidden * 4, tokens)
        self._run(lambda _: kernels.norm_tokens(step.address, parts.hidden_norm.ctypes.data, 0))
        normed = tuple(step.array(f"normed{part}", tokens) for part in ("", "_q", "_s"))
        for n, matrix in enumerate(parts.keys_values):
            layer = parts.reading[n : n + 1]
            layer["rope"] = parts.binding.layers["rope"][n]
            rows = int(matrix["rows"][0])
            self._multiply(matrix, normed, step.array("wide", 1).ctypes.data, rows * 4, tokens)
            self._run(lambda _, layer=layer, n=n: kernels.prepare_heads(step.address, layer.ctypes.data, n))  # type: ignore[misc]

    def _multiply(
        self,
        matrix: NDArray[np.void],
        inputs: Sequence[NDArray[np.generic]],
        out: int,
        stride: int,
        tokens: int,
        add: bool = False,
    ) -> None:
        """A MATRIX record times rows of activations (float32, int8, records) -> out, `stride` bytes a row."""
        product, scratch = self._product, self.step.thread_scratch
        product["matrix"], product["out"], product["out_stride"] = matrix.ctypes.data, out, stride
        product["f"], product["q"], product["s"] = (array.ctypes.data for array in inputs)
        product["tokens"], product["add"] = tokens, add
        multiply, address, at = self._kernels.multiply, self.step.address, product.ctypes.data
        self._run(lambda n: multiply(address, at, scratch(n) + EXPERT_SCRATCH_BYTES))

    def _run(self, work: Callable[[int], object]) -> None:
        """One phase, by the whole team."""
        threads = self._threads()
        self.step.begin_phase(threads)
        self._team.run(work, threads)

    def _reserve(self, capacities: Sequence[int]) -> None:
        self._parts.binding.rotary.reserve(max(capacities))


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-max(x, -80.0)))


def _has_room(cache: DraftCache, positions: int) -> bool:
    """Whether there is memory for the keys and values of so many positions; if not, it keeps nothing."""
    try:
        cache.state.reserve(positions)
    except DoesNotFitError:
        cache.forget()
        return False
    return True
