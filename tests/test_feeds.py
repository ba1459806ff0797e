"""Steps of many sequences: a row is the same, to the bit, whatever else is in the step.

The oracle is each sequence alone, in other steps. Steps are drawn at random: decode rows, chunks of
prompts and drafts of up to eight sequences, with float16 and int8 caches in one step, on every tier that runs here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from stepping import all_rows, paged_model

from edge_lfm.engine.feeds import Feed, run_alone
from edge_lfm.engine.runner import Runner
from edge_lfm.engine.sequence import TokenSequence
from edge_lfm.errors import CancelledError, ContextOverflowError, NumericalError, UsageError
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.isa import find_isa, runnable_tiers
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import Checkpoint, State

TIERS = [tier.name for tier in runnable_tiers()]
CHUNK, CONTEXT, SEQUENCES = 48, 320, 8
MODELS = ("dense-group3", "lfm3", "moe", "moe-untied-conv4", "qwen2-tied-group3", "qwen3_moe-dense-between")


@dataclass
class Follower:
    """One sequence: the tokens that it is to read, what each step gave it, and what it gave when it was alone."""

    state: State
    ids: np.ndarray
    expected: np.ndarray
    done: int = 0
    rows: dict[int, np.ndarray] = field(default_factory=dict)

    def check(self, first: int, wanted: str, found: np.ndarray) -> None:
        """Compare a step's logits with the sequence's own."""
        last = self.state.position
        expected = {"none": self.expected[:0], "last": self.expected[last - 1 : last], "all": self.expected[first:last]}
        assert np.array_equal(found, expected[wanted])


@contextmanager
def running(folder: Path, isa: str | None = None, threads: int = 1, chunk: int = CHUNK) -> Iterator[Runner]:
    kernels = load_kernels(find_isa(isa) if isa else None)
    with PackedModel(folder) as model, Runner(model, kernels, threads, chunk) as runner:
        yield runner


def followers(folder: Path, isa: str | None, rng: np.random.Generator, vocab: int) -> list[Follower]:
    """Eight sequences of uneven lengths, both kinds of caches among them, and what each gives alone."""
    made = []
    with running(folder, isa) as runner:
        for n in range(SEQUENCES):
            kv_dtype = "int8" if n % 3 == 2 else "float16"
            ids = rng.integers(0, vocab, int(rng.integers(20, CONTEXT)))
            alone = State(runner.shape, CONTEXT, kv_dtype)
            expected = np.concatenate([all_rows(runner, part, alone) for part in np.split(ids, range(1, len(ids), 7))])
            made.append(Follower(State(runner.shape, 8 * CONTEXT, kv_dtype, CHUNK), ids, expected))
    return made


def draw_feeds(rng: np.random.Generator, waiting: Sequence[Follower]) -> list[tuple[Follower, Feed]]:
    """A step: some of the sequences in any order, each with one token, a draft or a chunk, as far as there is room."""
    room, drawn = CHUNK, []
    for n in rng.permutation(len(waiting)):
        follower = waiting[n]
        most = min(room, len(follower.ids) - follower.done)
        if most == 0 or (drawn and rng.random() < 0.25):
            continue
        count = min(most, int(rng.choice([1, 1, 1, rng.integers(2, 9), rng.integers(9, 40)])))
        ids = follower.ids[follower.done : follower.done + count]
        wanted = rng.choice(["none", "last", "all"])
        noted = sorted(rng.choice(count, int(rng.integers(0, count + 1)), replace=False).tolist())
        drawn.append((follower, Feed(follower.state, ids, wanted, noted)))
        room -= count
    return drawn


def follow(runner: Runner, rng: np.random.Generator, sequences: Sequence[Follower]) -> int:
    """Run random steps until every sequence has been read; the number of steps with several feeds."""
    shared = 0
    while waiting := [s for s in sequences if s.done < len(s.ids)]:
        drawn = draw_feeds(rng, waiting)
        starts = [follower.done for follower, _ in drawn]
        found = runner.run([feed for _, feed in drawn])
        for (follower, feed), first, rows in zip(drawn, starts, found, strict=True):
            follower.done += len(feed.token_ids)
            assert follower.state.position == follower.done
            follower.check(first, feed.logits, rows)
        shared += len(drawn) > 1
    return shared


@pytest.mark.parametrize("isa", TIERS)
@pytest.mark.parametrize("scheme", ["int8", "balanced"])
@pytest.mark.parametrize("case", MODELS)
def test_a_row_is_the_same_whatever_else_is_in_the_step(
    case: str, scheme: str, isa: str, packed_cases: dict[str, dict[str, Path]]
) -> None:
    folder, rng = packed_cases[scheme][case], np.random.default_rng(len(case) + len(scheme))
    sequences = followers(folder, isa, rng, vocab=160)
    with running(folder, isa, threads=2) as runner:
        assert follow(runner, rng, sequences) > 10


@pytest.mark.slow
@pytest.mark.parametrize("isa", TIERS)
@pytest.mark.parametrize("seed", range(3))
def test_paged_rows_are_the_same_too(seed: int, isa: str, demo: dict[str, Path]) -> None:
    """A third of the experts kept: a step's union comes in waves."""
    rng = np.random.default_rng(seed)
    sequences = followers(demo["balanced"], isa, rng, vocab=4096)
    with paged_model(demo["balanced"], 1, 4, threads=2, chunk=CHUNK, guessing=True, isa=isa) as runner:
        assert follow(runner, rng, sequences) > 10
        misses = runner.pager.stats.misses.copy()
    assert (misses > 0).all()


@pytest.mark.parametrize("paged", [False, True])
def test_every_noted_place_can_be_gone_back_to(
    paged: bool, packed_cases: dict[str, dict[str, Path]], demo: dict[str, Path]
) -> None:
    """Steps of eight drafts; each sequence keeps some of its own, and goes on as if it had read no more."""
    folder, vocab = (demo["balanced"], 4096) if paged else (packed_cases["balanced"]["moe-untied-conv4"], 160)
    rng = np.random.default_rng(5)
    sequences = followers(folder, None, rng, vocab)
    with paged_model(folder, 1, chunk=CHUNK) if paged else running(folder) as runner:
        for follower in sequences:
            follower.done = int(rng.integers(0, 10))
            if follower.done:
                all_rows(runner, follower.ids[: follower.done], follower.state)
        for _ in range(3):
            befores: list[Checkpoint] = [s.state.checkpoint() for s in sequences]
            drafts = [s.ids[s.done : s.done + 2 + n % 3] for n, s in enumerate(sequences)]
            runner.run([Feed(s.state, d, "all", range(len(d))) for s, d in zip(sequences, drafts, strict=True)])
            for follower, before, draft in zip(sequences, befores, drafts, strict=True):
                kept = int(rng.integers(0, len(draft) + 1))
                follower.state.go_back(follower.state.checkpoint_after(before, kept))
                follower.done += kept
        for follower in sequences:
            assert follower.state.position == follower.done
            last = runner.read(follower.ids[follower.done : follower.done + 1], follower.state)
            assert np.array_equal(last, follower.expected[follower.done])


def test_what_is_refused_leaves_every_sequence_as_it_was(packed_cases: dict[str, dict[str, Path]]) -> None:
    with running(packed_cases["int8"]["moe"]) as runner:
        good, small = State(runner.shape, 64), State(runner.shape, 4)
        wrong = {
            UsageError: [
                [],
                [Feed(good, [])],
                [Feed(good, [1]), Feed(good, [2])],
                [Feed(good, range(30)), Feed(State(runner.shape, 64), range(30))],
                [Feed(good, [1]), Feed(State(runner.shape, 64), [160])],
            ],
            ContextOverflowError: [[Feed(good, [1]), Feed(small, range(5))]],
        }
        for error, steps in wrong.items():
            for feeds in steps:
                with pytest.raises(error):
                    runner.run(feeds)
        assert good.position == small.position == 0
        expected = runner.read([1, 2], State(runner.shape, 64))
        assert np.array_equal(runner.read([1, 2], good), expected)


def test_a_nan_fails_the_step_and_no_later_one(packed_cases: dict[str, dict[str, Path]]) -> None:
    """One flag a step: it does not tell whose row it was, so none of the step's states is used further."""
    with running(packed_cases["int8"]["moe"]) as runner:
        sick, sound = State(runner.shape, 64), State(runner.shape, 64)
        sick.conv[0][:] = np.nan
        with pytest.raises(NumericalError, match="NaN"):
            runner.run([Feed(sound, [1, 2]), Feed(sick, [1, 2])])
        assert sound.position == sick.position == 0
        fresh = State(runner.shape, 64)
        assert np.isfinite(runner.run([Feed(fresh, [1, 2])])[0]).all()


def test_a_cancelled_step_is_undone_by_its_sequence(packed_cases: dict[str, dict[str, Path]]) -> None:
    with running(packed_cases["int8"]["moe"]) as runner:
        ids = np.random.default_rng(0).integers(0, 160, 80).tolist()
        sequence = TokenSequence(State(runner.shape, 128))
        run_alone(sequence.read(ids[:40]), runner.run)
        asked: list[bool] = []

        def cancelled() -> bool:
            asked.append(True)
            return len(asked) > 2

        with pytest.raises(CancelledError):
            run_alone(sequence.read(ids[40:]), lambda feeds: runner.run(feeds, cancelled=cancelled))
        assert len(sequence.ids) == sequence.state.position == 40
        again = run_alone(sequence.read(ids[40:]), runner.run)[0]
        whole = TokenSequence(State(runner.shape, 128))
        run_alone(whole.read(ids[:40]), runner.run)
        assert np.array_equal(again, run_alone(whole.read(ids[40:]), runner.run)[0])


@pytest.mark.parametrize("paged", [False, True], ids=["whole", "paged"])
def test_experts_of_a_step_are_counted_once(packed_cases: dict[str, dict[str, Path]], paged: bool) -> None:
    """As often as the choices that it tells say; a paged model finds as many in memory, or reads them."""
    folder, rng = packed_cases["int8"]["moe"], np.random.default_rng(3)
    chosen: list[np.ndarray] = []
    with paged_model(folder, 1, chunk=CHUNK) if paged else running(folder) as runner:
        states = [State(runner.shape, CONTEXT) for _ in range(SEQUENCES)]
        for rows in (1, 2, 5, 8):
            feeds = [Feed(state, rng.integers(0, 160, 1)) for state in states[:rows]]
            before, paging = runner.experts, runner.pager.stats.copy() if runner.pager else None
            chosen.clear()
            runner.run(feeds, routing=lambda layer, experts: chosen.append(experts))
            use = runner.experts - before
            assert use.asked == sum(experts.size for experts in chosen) > 0
            assert use.read == sum(len(np.unique(experts)) for experts in chosen)
            assert use.union_share == use.read / use.asked
            assert rows > 1 or use.union_share == 1
            if paging is not None:
                found = runner.pager.stats.since(paging)
                assert use.read == int(found.hits.sum() + found.misses.sum())


@pytest.mark.parametrize("paged", [False, True], ids=["whole", "paged"])
def test_rows_take_the_experts_that_they_are_given(packed_cases: dict[str, dict[str, Path]], paged: bool) -> None:
    """Several rows in one step, each with experts of its own, as each alone; and the union of these is counted."""
    folder, rng = packed_cases["int8"]["moe"], np.random.default_rng(5)
    ids = rng.integers(0, 160, SEQUENCES)
    with paged_model(folder, 1, chunk=CHUNK) if paged else running(folder) as runner:
        layers, router = runner.expert_layers, next(iter(runner.shape.routers.values()))
        given = np.stack([[rng.permutation(router.experts)[: router.top_k] for _ in range(SEQUENCES)] for _ in layers])

        def states() -> list[State]:
            return [State(runner.shape, CONTEXT) for _ in range(SEQUENCES)]

        def run(feeds: list[Feed], rows: slice) -> list[np.ndarray]:
            return runner.run(feeds, routing=lambda n, _: given[layers.index(n), rows])

        plain = runner.run([Feed(state, [id]) for state, id in zip(states(), ids, strict=True)])
        alone = [run([Feed(state, [ids[n]])], slice(n, n + 1))[0] for n, state in enumerate(states())]
        before = runner.experts
        together = run([Feed(state, [id]) for state, id in zip(states(), ids, strict=True)], slice(None))
        assert (runner.experts - before).read == sum(len(np.unique(experts)) for experts in given)
        assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
        assert not any(np.array_equal(a, b) for a, b in zip(together, plain, strict=True))
