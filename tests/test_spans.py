"""Attention over several spans of positions, on every tier that runs here: beside its NumPy definition, and bit by bit
whoever computes a span."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from edge_lfm.kernels.load.library import Kernels, load_kernels
from edge_lfm.kernels.load.team import Team
from edge_lfm.kernels.spec import ref
from edge_lfm.kernels.spec.isa import find_isa, runnable_tiers
from edge_lfm.kernels.spec.layout import (
    ACTIVATION_BYTES,
    CONTEXT,
    GROUP,
    LAYER,
    ROW,
    SPAN,
    STATE,
    SYNC_BYTES,
    attention_scratch_bytes,
)
from edge_lfm.model.kv_cache import make_caches
from edge_lfm.shape import Attention


@pytest.fixture(scope="module", params=[tier.name for tier in runnable_tiers()])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return load_kernels(find_isa(request.param))


@dataclass(frozen=True)
class Case:
    """A step of `tokens` tokens at `position`; queries are `loud` times as large as values of a normal distribution."""

    heads: int
    kv: int
    width: int
    position: int
    tokens: int
    kept: str = "float16"
    window: int = 0
    sinks: bool = False
    loud: float = 1.0


CASES = [
    Case(8, 1, 64, 2 * SPAN + 300, 1),
    Case(8, 1, 64, 2 * SPAN + 300, 1, "int8"),
    Case(3, 1, 96, SPAN - 2, 4),  # the first two tokens see one span, the others two
    Case(3, 1, 96, SPAN - 2, 4, "int8", sinks=True),
    Case(4, 2, 32, 3 * SPAN - 1, 2, window=SPAN + 7),  # begins inside the second span
    Case(4, 2, 32, 3 * SPAN - 1, 2, "int8", window=2 * SPAN),
    Case(6, 2, 32, 2 * SPAN, 5, window=3, sinks=True),  # the first two tokens see two spans, the last ones one
    Case(2, 1, 128, 2 * SPAN + 1, 1, loud=1e4),  # one position takes all
    Case(2, 1, 128, 2 * SPAN + 1, 1, loud=0.0, sinks=True),
]


class Work:
    """The arrays of a case. What lies beyond the sequence is NaN in values or scales."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(case.position + case.heads)
        end, shape = case.position + case.tokens, Attention(case.heads, case.kv, case.width, None, "none")
        capacity = -(-end // 256) * 256
        self.case, self.caches = case, make_caches(shape, capacity, case.kept)
        self.queries = rng.standard_normal((case.tokens, case.heads, case.width), np.float32) * np.float32(case.loud)
        keys, values = (rng.standard_normal((end, case.kv, case.width), np.float32) for _ in range(2))
        self.keys, self.values = self._keep(keys, values)
        self.sinks = 3 * rng.standard_normal(case.heads, np.float32) if case.sinks else None

    def _keep(self, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fill the caches; gives what they hold, float32."""
        found, end = [], len(keys)
        for field, x in (("keys", keys), ("values", values)):
            cache, scale = self.caches[field], np.ones((end, x.shape[1], 1), np.float32)
            if self.case.kept == "int8":
                scale = np.abs(x).max(-1, keepdims=True) / np.float32(127)
                scales = self.caches[field.replace("s", "_scales")]
                scales[:, end:], scales[:, :end] = np.nan, scale[:, :, 0].T
            elif field == "values":
                cache[:, end:] = np.nan
            held = (np.rint(x / scale) if self.case.kept == "int8" else x).astype(cache.dtype)
            if field == "keys":
                p = np.arange(end)
                cache[:, p // 16, :, p % 16] = held
            else:
                cache[:, :end] = held.transpose(1, 0, 2)
            found.append(held.astype(np.float32) * scale)
        return found[0], found[1]

    def expected(self, rounds_queries: bool) -> np.ndarray:
        """By the definition: [T, heads * hd]."""
        queries = ref.round_queries(self.queries) if rounds_queries and self.case.kept == "int8" else self.queries
        return ref.attention(queries, self.keys, self.values, self.case.position, self.case.window, self.sinks)

    def run(self, kernels: Kernels, threads: int, room: int = 1 << 19) -> tuple[np.ndarray, np.ndarray, bool]:
        """Mixed heads, their int8 form, and whether spans were computed apart. `room`: free scratch memory a thread."""
        case, needed = self.case, -(-attention_scratch_bytes(self.case.width) // 64) * 64
        layer, state, rows = np.zeros(1, LAYER), np.zeros(1, STATE), np.zeros(case.tokens, ROW)
        layer["heads"], layer["kv_heads"], layer["head_dim"] = case.heads, case.kv, case.width
        layer["window"] = case.window
        for field, cache in self.caches.items():
            state[field] = cache.ctypes.data
        state["capacity"], state["is_int8"] = self.caches["values"].shape[1], case.kept == "int8"
        rows["position"], rows["states"] = case.position + np.arange(case.tokens), state.ctypes.data
        columns, pad = case.heads * case.width, np.zeros((case.tokens, 2 * case.kv * case.width), np.float32)
        wide = np.concatenate([self.queries.reshape(case.tokens, -1), pad], axis=1)
        scratch = np.zeros(threads * (needed + room) + 64, np.uint8)
        area = scratch[-scratch.ctypes.data % 64 :][: threads * (needed + room)].reshape(threads, -1)
        sinks = None if self.sinks is None else np.pad(self.sinks, (0, -case.heads % 16))
        layer["sinks"] = 0 if sinks is None else sinks.ctypes.data
        context, arrays = np.zeros(1, CONTEXT), self._outputs(columns) | {"rows": rows, "wide": wide, "scratch": area}
        for field, array in arrays.items():
            context[field] = array.ctypes.data
        context["tokens"], context["threads"], context["scratch_bytes"] = case.tokens, threads, needed + room
        with Team(threads) as team:
            team.run(lambda n: kernels.attend_tokens(context.ctypes.data, layer.ctypes.data, 0, area[n].ctypes.data))
        return arrays["mixed"], arrays["mixed_q"], bool(area[:, needed:].any())

    def _outputs(self, columns: int) -> dict[str, np.ndarray[Any, Any]]:
        tokens = self.case.tokens
        return {
            "mixed": np.full((tokens, columns), np.nan, np.float32),
            "mixed_q": np.zeros((tokens, columns), np.int8),
            "mixed_s": np.zeros((tokens, columns // GROUP * ACTIVATION_BYTES), np.uint8),
            "sync": np.zeros(SYNC_BYTES // 8, np.int64),
        }


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_spans_are_merged(kernels: Kernels, case: Case) -> None:
    """One thread computes all; two and five share the spans."""
    work = Work(case)
    mixed, q, apart = work.run(kernels, 1)
    assert not apart
    # With queries this loud, a difference of one in 2**24 of a score of 3e5 is a factor of e**0.02.
    assert np.abs(mixed - work.expected(kernels.isa.rounds_queries)).max() < (0.05 if case.loud > 1 else 2e-6)
    assert np.array_equal(q, ref.quantize_rows(mixed).q)
    for threads in (2, 5):
        found, found_q, apart = work.run(kernels, threads)
        assert apart
        assert np.array_equal(found.view(np.uint32), mixed.view(np.uint32)) and np.array_equal(found_q, q)


def test_without_room_for_parts_a_thread_computes_all_spans(kernels: Kernels) -> None:
    work = Work(CASES[0])
    mixed, _, apart = work.run(kernels, 2, room=64)
    assert not apart
    assert np.array_equal(mixed, work.run(kernels, 2)[0])


@pytest.mark.parametrize("case", [case for case in CASES if case.tokens > 1], ids=repr)
def test_tokens_alone_have_the_bits_of_tokens_together(kernels: Kernels, case: Case) -> None:
    work = Work(case)
    mixed, _, _ = work.run(kernels, 1)
    queries = work.queries
    for n in range(case.tokens):
        work.case, work.queries = replace(case, position=case.position + n, tokens=1), queries[n : n + 1]
        assert np.array_equal(work.run(kernels, 3)[0][0].view(np.uint32), mixed[n].view(np.uint32))
