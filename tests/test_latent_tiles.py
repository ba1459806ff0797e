"""Attention to latents on every tier that runs here: its NumPy definition, and the same bits whoever computes what."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
    LATENT,
    LATENT_BLOCK,
    LATENT_BYTES_BLOCK,
    LAYER,
    QUERY_STEPS,
    ROW,
    SPAN,
    STATE,
    SYNC_BYTES,
    latent_scratch_bytes,
)
from edge_lfm.kernels.spec.ref_latent import latent_attention, latent_weights
from edge_lfm.model.kv_cache import make_caches
from edge_lfm.shape import LatentAttention, Rope

PLAIN = 32


@pytest.fixture(scope="module", params=[tier.name for tier in runnable_tiers()])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return load_kernels(find_isa(request.param))


@dataclass(frozen=True)
class Case:
    """A step of `tokens` tokens at `position`; queries are `loud` times as large as values of a normal distribution."""

    heads: int
    rank: int
    turned: int
    position: int
    tokens: int
    kept: str = "float16"
    loud: float = 1.0


CASES = [
    Case(1, 32, 32, 0, 1),
    Case(20, 512, 64, 0, 3, "int8"),
    Case(20, 96, 64, LATENT_BLOCK - 3, 5),  # blocks that are begun and ended, and the first position of one
    Case(20, 96, 64, 2 * SPAN + 301, 1),
    Case(20, 96, 64, 2 * SPAN + 301, 1, "int8"),
    Case(3, 64, 32, SPAN - 2, 4),  # the first two tokens see one span, the others two
    Case(3, 64, 32, SPAN - 2, 4, "int8"),
    Case(37, 64, 64, 90, 2),  # more heads than share a pass
    Case(37, 160, 32, SPAN + 17, 2, "int8"),
    Case(9, 96, 32, LATENT_BYTES_BLOCK - 2, 4, "int8"),
    Case(4, 1024, 32, 200, 1, "int8", loud=3.0),  # the widest latents there are
    Case(4, 64, 32, SPAN + 1, 1, "int8", loud=1e4),
    Case(4, 64, 32, SPAN + 1, 1, "int8", loud=0.0),
    Case(4, 64, 32, SPAN + 1, 1, loud=1e4),  # one position takes all
    Case(4, 64, 32, SPAN + 1, 1, loud=0.0),
]


class Work:
    """The arrays of a case. What lies beyond the sequence is NaN in latents or scales."""

    def __init__(self, case: Case) -> None:
        rng, end = np.random.default_rng(case.position + case.heads), case.position + case.tokens
        self.case, self.scale = case, (case.rank + case.turned) ** -0.5
        shape = LatentAttention(case.heads, None, case.rank, PLAIN, 32, Rope(1e4, case.turned), 1e-6, self.scale, False)
        self.caches = make_caches(shape, -(-end // 16) * 16, case.kept)
        self.low, self.turned = (
            rng.standard_normal((case.tokens, case.heads, n), np.float32) * np.float32(case.loud)
            for n in (case.rank, case.turned)
        )
        self.scales = np.ones(end, np.float32)
        self.latents = self._keep("values", rng.standard_normal((end, case.rank), np.float32))
        self.keys = self._keep("keys", rng.standard_normal((end, case.turned), np.float32))

    def _keep(self, field: str, x: np.ndarray) -> np.ndarray:
        """Fill a cache; gives what it holds, float32."""
        cache, end, scale = self.caches[field], len(x), np.ones((len(x), 1), np.float32)
        if self.case.kept == "int8":
            scale = np.abs(x).max(-1, keepdims=True) / np.float32(127)
            scales = self.caches[field.replace("s", "_scales")]
            scales[:, end:], scales[0, :end] = np.nan, scale[:, 0]
            self.scales = scale[:, 0]
        elif field == "values":
            cache[:, end:] = np.nan
        held = (np.rint(x / scale) if self.case.kept == "int8" else x).astype(cache.dtype)
        if field == "keys":
            cache[0, np.arange(end) // 16, :, np.arange(end) % 16] = held
        else:
            cache[0, :end] = held
        return held.astype(np.float32) * scale

    def expected(self, in_bytes: bool) -> tuple[np.ndarray, np.ndarray]:
        """By the definition, in float64: [heads, T, R]; and how far each value may be off.

        in_bytes: queries are rounded, and weights by up to half a step of the largest in their block.
        """
        in_bytes = in_bytes and self.case.kept == "int8"
        queries = [ref.round_queries(x) if in_bytes else x for x in (self.low, self.turned)]
        arrays = [x.astype(np.float64) for x in (*queries, self.latents, self.keys)]
        taken = latent_attention(*arrays, self.case.position, self.scale).transpose(1, 0, 2)
        # With queries this loud, a difference of one in 2**24 of a score of 1e5 is a factor of e**0.02.
        off = np.full_like(taken, 0.05 if self.case.loud > 1e3 else 3e-6)
        if not in_bytes:
            return taken, off
        weights = latent_weights(*arrays, self.case.position, self.scale) * self.scales
        for first in range(0, len(self.latents), LATENT_BYTES_BLOCK):
            block = slice(first, first + LATENT_BYTES_BLOCK)
            steps = weights[:, :, block].max(-1, keepdims=True) / QUERY_STEPS
            off += 0.5 * steps * np.abs(self.latents[block] / self.scales[block, None]).sum(0)
        return taken, off

    def run(self, kernels: Kernels, threads: int, room: int = 1 << 19) -> tuple[np.ndarray, np.ndarray, bool]:
        """What heads take, its int8 form, and whether spans were apart. `room`: free scratch memory of a thread."""
        case, needed = self.case, latent_scratch_bytes(self.case.rank)
        layer, latent, state, rows = (
            np.zeros(1, LAYER),
            np.zeros(1, LATENT),
            np.zeros(1, STATE),
            np.zeros(case.tokens, ROW),
        )
        latent["heads"], latent["rank"], latent["scale"] = case.heads, case.rank, self.scale
        latent["k_b"]["cols"], layer["latent"], layer["rope_width"] = PLAIN, latent.ctypes.data, case.turned
        plain = np.full((case.tokens, case.heads, PLAIN), np.nan, np.float32)
        wide = np.concatenate([plain, self.turned], axis=2)
        layer["in_proj"]["rows"] = case.heads * (PLAIN + case.turned)
        for field, cache in self.caches.items():
            state[field] = cache.ctypes.data
        state["capacity"], state["is_int8"] = self.caches["values"].shape[1], case.kept == "int8"
        rows["position"], rows["states"] = case.position + np.arange(case.tokens), state.ctypes.data
        scratch = np.zeros(threads * (needed + room) + 64, np.uint8)
        area = scratch[-scratch.ctypes.data % 64 :][: threads * (needed + room)].reshape(threads, -1)
        area[:, :needed] = 0xFF  # NaN: what other operators have left there
        low, values = np.ascontiguousarray(self.low), case.heads * case.tokens * case.rank
        arrays = {
            "rows": rows, "wide": wide, "low_queries": low, "scratch": area,
            "sync": np.zeros(SYNC_BYTES // 8, np.int64),
            "taken": np.full((case.heads, case.tokens, case.rank), np.nan, np.float32),
            "taken_q": np.zeros((case.heads, case.tokens, case.rank), np.int8),
            "taken_s": np.zeros(values // GROUP * ACTIVATION_BYTES, np.uint8),
        }  # fmt: skip
        context = np.zeros(1, CONTEXT)
        for field, array in arrays.items():
            context[field] = array.ctypes.data
        context["tokens"], context["threads"], context["scratch_bytes"] = case.tokens, threads, needed + room
        with Team(threads) as team:
            team.run(lambda n: kernels.attend_latents(context.ctypes.data, layer.ctypes.data, 0, area[n].ctypes.data))
        return arrays["taken"], arrays["taken_q"], bool(area[:, needed:].any())


def same_bits(x: np.ndarray, y: np.ndarray) -> bool:
    return np.array_equal(x.view(np.uint32), y.view(np.uint32))


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_heads_take_what_the_definition_says(kernels: Kernels, case: Case) -> None:
    """One thread computes all; two and seven share heads and spans."""
    work = Work(case)
    taken, q, apart = work.run(kernels, 1)
    assert not apart
    expected, off = work.expected(kernels.isa.rounds_queries)
    assert (np.abs(taken - expected) < off).all()
    assert np.array_equal(q.reshape(-1, case.rank), ref.quantize_rows(taken.reshape(-1, case.rank)).q)
    for threads in (2, 7):
        found, found_q, apart = work.run(kernels, threads)
        assert apart == (case.position + case.tokens > SPAN)
        assert same_bits(found, taken) and np.array_equal(found_q, q)


def test_without_room_for_parts_a_thread_computes_all_spans(kernels: Kernels) -> None:
    work = Work(Case(20, 96, 64, 2 * SPAN + 301, 1))
    taken, _, apart = work.run(kernels, 2, room=64)
    assert not apart
    assert same_bits(taken, work.run(kernels, 2)[0])


@pytest.mark.parametrize("case", [case for case in CASES if case.tokens > 1], ids=repr)
def test_tokens_alone_have_the_bits_of_tokens_together(kernels: Kernels, case: Case) -> None:
    work = Work(case)
    taken, _, _ = work.run(kernels, 1)
    low, turned = work.low, work.turned
    for n in range(case.tokens):
        work.case = replace(case, position=case.position + n, tokens=1)
        work.low, work.turned = low[n : n + 1], turned[n : n + 1]
        assert same_bits(work.run(kernels, 3)[0][:, 0], taken[:, n])


def test_heads_alone_have_the_bits_of_heads_together(kernels: Kernels) -> None:
    work = Work(Case(5, 64, 32, 130, 1))
    taken, _, _ = work.run(kernels, 1)
    low, turned = work.low, work.turned
    for h in range(5):
        work.case, work.low, work.turned = replace(work.case, heads=1), low[:, h : h + 1], turned[:, h : h + 1]
        assert same_bits(work.run(kernels, 1)[0][0], taken[h])
