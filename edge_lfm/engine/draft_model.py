"""A drafter on the kernels and the team of its target: what it keeps of each token, and its blocks of drafts.

After a step of the target, `read` makes keys and values of the tapped streams; drafts are one pass of all slots over
them, and then a small matrix each. Sequences fed together are read together. The network: `reference_drafter.py`.
Knows streams and caches; does not decide how many drafts are worth a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.draft_costs import Switch
from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.step import Step
from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.load.team import Team
from edge_lfm.kernels.spec.layout import ACTIVATION_BYTES, EXPERT_SCRATCH_BYTES, GROUP, PRODUCT
from edge_lfm.memory.faults import MapGuard
from edge_lfm.memory.scratch import DRAFT_CHUNK
from edge_lfm.model import drafter_plan as names
from edge_lfm.model.binding import Binding
from edge_lfm.model.drafter_binding import bind_drafter
from edge_lfm.model.packed_drafter import PackedDrafter
from edge_lfm.model.state import DraftCache


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
        self.switch = Switch()
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
        self._markov = (
            np.zeros((1, self.drafter.rank), np.float32),
            np.zeros((1, self.drafter.rank), np.int8),
            np.zeros((1, self.drafter.rank // GROUP * ACTIVATION_BYTES), np.uint8),
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
        return DraftCache(self.drafter.body, context + self.drafter.slots, kv_dtype)

    def take(self, tap: int, stream: NDArray[np.float32]) -> None:
        """Note the target's residual stream [T, H] after the layer of this tap."""
        hidden = stream.shape[1]
        self.streams[: len(stream), tap * hidden : (tap + 1) * hidden] = stream

    def read(self, feeds: Sequence[Feed]) -> None:
        """Keep what the step under way has shown of its feeds' tokens; their states still stand before them."""
        for parts in _batches(feeds):
            rows = np.concatenate([self.streams[first:last] for _, _, first, last in parts])
            made = []
            for cache, position, first, last in parts:
                cache.extend(position, last - first)
                cache.state.position = position
                made.append(Feed(cache.state, np.zeros(last - first, np.int64), "none"))
            self._reserve([feed.state.capacity for feed in made])
            self.step.begin(made)
            self._read_rows(rows)
            if self.step.failed:
                for cache, *_ in parts:
                    cache.forget()

    def draft(
        self, cache: DraftCache, position: int, anchor: int, count: int, least: float
    ) -> tuple[list[int], list[float]]:
        """Up to `count` drafts after the newest token, which stands at `position`, and how likely each is to be right
        if those before it are. It ends where the chance that all are falls below `least`."""
        slots, state = self.drafter.slots, cache.state
        state.position = position
        state.reserve(position + slots)
        self._reserve([state.capacity])
        # It sees what it has read, and its own block.
        self._parts.binding.layers["window"] = position + slots - cache.first if cache.first else 0
        self.step.begin([Feed(state, [anchor] + [self.drafter.mask] * (slots - 1), "all", block=True)])
        forward, address, stages = self._kernels.forward, self.step.address, 2 + 3 * len(self.drafter.body.layers)
        self._run(lambda n: forward(address, n, 0, stages))
        if self.step.failed:
            cache.forget()
            return [], []
        drafts, confidences, chance = [anchor], list[float](), 1.0
        while len(confidences) < min(count, slots) and chance >= least:
            confidences.append(self._confidence_and_logits(len(confidences), drafts[-1]))
            drafts.append(int(np.argmax(self.step.logit_rows[len(confidences) - 1])))
            chance *= confidences[-1]
        return drafts[1:], confidences

    def _confidence_and_logits(self, slot: int, last: int) -> float:
        """Add to a slot's logits what the token before it implies; the slot's confidence."""
        row, rounded, records = (array.ctypes.data for array in self._markov)
        self._kernels.unpack_row(self._parts.markov_in.ctypes.data, last, row)
        self._kernels.round_activations(self.step.address, row, rounded, records, self.drafter.rank)
        logits = self.step.logit_rows
        self._multiply(self._parts.markov_out, self._markov, logits[slot].ctypes.data, logits.strides[0], 1, add=True)
        seen = np.concatenate((self.step.array("normed", slot + 1)[slot], self._markov[0][0]))
        logit = float(self._weight @ seen) + self._bias
        return 1 / (1 + math.exp(-max(logit, -80.0)))

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


def _batches(feeds: Sequence[Feed]) -> Iterator[list[tuple[DraftCache, int, int, int]]]:
    """Rows to read together, at most DRAFT_CHUNK: cache, first position, first row, row behind."""
    batch: list[tuple[DraftCache, int, int, int]] = []
    room, row = DRAFT_CHUNK, 0
    for feed in feeds:
        end, position, cache = row + len(feed.token_ids), feed.state.position, feed.state.draft
        while cache is not None and cache.wanted and row < end:
            last = min(end, row + room)
            batch.append((cache, position, row, last))
            position, room, row = position + last - row, room - (last - row), last
            if not room:  # the next part may be of the same sequence
                yield batch
                batch, room = [], DRAFT_CHUNK
        row = end
    if batch:
        yield batch
