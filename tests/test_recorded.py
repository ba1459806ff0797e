"""Recorded routing in benchmarks: unrelated stretches for every answer, and what steps of several answers read."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, importing_from

from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.runner import Runner
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.memory.plan import PagingPlan
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State

with importing_from(ROOT / "benchmarks"):
    import paged_limit
    from recorded import RecordedRouting, Trace

LAYERS, EXPERTS, TOP_K = 6, 16, 4


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Ninety sequences of 20 tokens; the choices of each are its number modulo 16, and those behind it."""
    sequences, tokens = 90, 20
    first = np.repeat(np.arange(sequences), tokens)[:, None, None] % EXPERTS
    experts = np.broadcast_to((first + np.arange(TOP_K)) % EXPERTS, (sequences * tokens, 3, TOP_K))
    np.savez(tmp_path / "trace.npz", experts=experts.astype(np.uint8), offsets=np.arange(sequences + 1) * tokens)
    return tmp_path / "trace.npz"


def test_streams_have_no_sequence_in_common(path: Path) -> None:
    with np.load(path) as file:
        names = np.arange(len(file["experts"]), dtype=np.int64)
        np.savez(path, experts=np.broadcast_to(names[:, None, None] % 32, (len(names), 3, 4)), offsets=file["offsets"])
    trace = Trace(path, LAYERS, 32, TOP_K)
    trace._chosen = np.broadcast_to(names[:, None, None], (len(names), 3, 4))  # tells which tokens were taken
    streams = trace.streams(5, 70)
    assert [stream.shape for stream in streams] == [(70, LAYERS, TOP_K)] * 5
    for one, other in combinations(streams, 2):
        assert not set((one // 20).ravel().tolist()) & set((other // 20).ravel().tolist())


def test_a_model_of_twice_the_experts_runs_two_sequences_at_once(path: Path) -> None:
    for stream in Trace(path, LAYERS, 2 * EXPERTS, TOP_K).streams(3, 30):
        assert (stream[..., :2] < EXPERTS).all() and (stream[..., 2:] >= EXPERTS).all()
        assert all(len(set(row)) == TOP_K for row in stream.reshape(-1, TOP_K).tolist())
    with pytest.raises(SystemExit, match="16 or 32 experts"):
        Trace(path, LAYERS, 48, TOP_K)


def test_every_row_of_a_step_routes_by_its_own_stream(path: Path, demo: dict[str, Path]) -> None:
    with PackedModel(demo["balanced"]) as model, Runner(model, load_kernels(), 1) as runner:
        streams = Trace.of(path, model.shape).streams(3, 40)
        RecordedRouting(runner, streams)
        states = [State(model.shape, 64) for _ in range(2)]
        before = runner.experts
        runner.run([Feed(states[0], [1, 2, 3]), Feed(states[1], [4])])
        rows = np.concatenate([streams[0][:3], streams[1][:1]])
        assert (runner.experts - before).read == sum(len(np.unique(rows[:, n])) for n in range(rows.shape[1]))
        before = runner.experts
        runner.run([Feed(states[1], [5])])
        assert (runner.experts - before).read == TOP_K * LAYERS


def test_what_steps_of_several_answers_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that choose alike read once; those that share nothing, and find nothing, read as much as each alone."""
    monkeypatch.setattr(paged_limit, "WARM", 4)
    monkeypatch.setattr(paged_limit, "STEPS", 8)
    plan = PagingPlan(8, 24, 0, 1, 0, LAYERS * EXPERTS)
    turns = (np.arange(12)[:, None, None] * TOP_K + np.arange(TOP_K)) % EXPERTS  # comes again after four tokens
    one = np.broadcast_to(turns, (12, LAYERS, TOP_K))
    alone = paged_limit.misses_of(plan, EXPERTS, [one])
    assert paged_limit.misses_of(plan, EXPERTS, [one, one]) == alone
    assert paged_limit.misses_of(plan, EXPERTS, [one, (one + TOP_K) % EXPERTS]) <= 2 * LAYERS * TOP_K
    assert paged_limit.least_misses(8, [one]) <= alone <= LAYERS * TOP_K
    assert paged_limit.least_misses(LAYERS * EXPERTS, [one]) == 0  # the first tokens have read all
