"""Threads: how many there are, on made-up machines, and that a team meets whatever processors it has."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edge_lfm.api import Model
from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.runner import Runner
from edge_lfm.errors import UsageError
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.load.team import Team
from edge_lfm.machine.processors import BYTES_PER_THREAD, StepThreads, choose_threads, physical_cores
from edge_lfm.model.packed_model import PackedModel


def machine(root: Path, siblings: list[str], speeds: list[int] | None = None, file: str = "cpu_capacity") -> Path:
    for cpu, text in enumerate(siblings):
        folder = root / f"cpu{cpu}"
        (folder / "topology").mkdir(parents=True)
        (folder / "topology/thread_siblings_list").write_text(text + "\n", encoding="ascii")
        if speeds:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text(f"{speeds[cpu]}\n", encoding="ascii")
    return root


def test_hyperthreads_count_once(tmp_path: Path) -> None:
    root = machine(tmp_path, ["0,2", "1,3", "0,2", "1,3"])
    assert physical_cores(root, range(4)) == 2
    assert physical_cores(root, [0, 2]) == 1


def test_slow_cores_are_left_out(tmp_path: Path) -> None:
    """An RK3588 (4 A55, 4 A76), and a hybrid laptop (2 fast cores with hyperthreads, 4 slow ones)."""
    rk3588 = machine(tmp_path / "rk", list("01234567"), [414] * 4 + [1024] * 4)
    assert physical_cores(rk3588, range(8)) == 4
    assert physical_cores(rk3588, range(4)) == 4  # a process bound to the slow cores uses them
    hybrid = machine(tmp_path / "x", ["0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"],
                     [5_000_000] * 4 + [3_600_000] * 4, "cpufreq/cpuinfo_max_freq")  # fmt: skip
    assert physical_cores(hybrid, range(8)) == 2
    even = machine(tmp_path / "even", list("0123"), [4_900_000, 5_000_000, 4_900_000, 4_800_000],
                   "cpufreq/cpuinfo_max_freq")  # fmt: skip
    assert physical_cores(even, range(4)) == 4


def test_a_system_without_topology(tmp_path: Path) -> None:
    assert physical_cores(tmp_path, range(3)) == 3


def test_what_is_asked_for_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LFM_THREADS", "3")
    assert choose_threads() == 3
    assert choose_threads(5) == 5
    for bad in ("0", "-1", "many", "1e3"):
        monkeypatch.setenv("EDGE_LFM_THREADS", bad)
        with pytest.raises(UsageError):
            choose_threads()
    monkeypatch.delenv("EDGE_LFM_THREADS")
    assert choose_threads() >= 1
    for wrong in (0, -1, 257, 1.5, True):
        with pytest.raises(UsageError):
            choose_threads(wrong)


def test_a_team_can_run_on_some_of_its_threads() -> None:
    with Team(3) as team:
        for threads in (1, 3, 2, None):
            ran: list[int] = []
            team.run(ran.append, threads)
            assert sorted(ran) == list(range(threads or 3))


def last_logits(runner: Runner, tokens: list[int]) -> np.ndarray:
    return runner.run([Feed(runner.new_state(64), tokens)])[0]


def test_more_threads_than_processors_compute_the_same(demo: dict[str, Path]) -> None:
    """Four threads on one processor: at every barrier some must sleep, and none may be forgotten there."""
    prompts = [[n % 7 for n in range(40)], [0]]
    with PackedModel(demo["balanced"]) as model:
        with Runner(model, load_kernels(), 1) as runner:
            expected = [last_logits(runner, tokens) for tokens in prompts]
        cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cpus)})  # of this thread, and of those that it starts
        try:
            with Runner(model, load_kernels(), 4) as runner:
                for _ in range(30):
                    found = [last_logits(runner, tokens) for tokens in prompts]
                    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
        finally:
            os.sched_setaffinity(0, cpus)


def test_threads_follow_the_processors_that_there_are(demo: dict[str, Path]) -> None:
    """A quota that is lowered and raised while a model is in use."""
    granted = [3]
    with (
        PackedModel(demo["balanced"]) as model,
        Runner(model, load_kernels(), 3, choose=lambda _rows: granted[0]) as runner,
    ):
        expected = last_logits(runner, [1, 2, 3])
        for granted[0], threads in ((1, 1), (2, 2), (8, 3)):
            assert runner.threads == threads
            assert np.array_equal(last_logits(runner, [1, 2, 3]), expected)


def test_a_stated_number_is_the_most(demo: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """More threads than processors would wait for each other: a quota of one CPU made two of them 66 times slower."""
    monkeypatch.setattr("edge_lfm.machine.processors.granted_processors", lambda: 1)
    with Model.load(demo["balanced"], threads=2) as model:
        assert model.threads == 1


def test_a_small_step_runs_on_few_threads() -> None:
    """Waking a thread takes longer than its share of a small step; a large one has work for as many as there are."""
    small, large = StepThreads(BYTES_PER_THREAD // 4, lambda: 8), StepThreads(BYTES_PER_THREAD * 100, lambda: 8)
    assert small(1) == 1 and large(1) == 8
    counts = [small(rows) for rows in range(1, 513)]
    assert counts == sorted(counts) and counts[-1] == 8
    assert StepThreads(BYTES_PER_THREAD * 100, lambda: 3)(1) == 3


def test_steps_of_any_number_of_threads_in_turn_compute_the_same(demo: dict[str, Path]) -> None:
    """A prompt on three threads, its answer on one, and back: the state is the same whoever wrote it."""
    prompt = [n % 7 for n in range(40)]
    with PackedModel(demo["balanced"]) as model:
        logits = []
        for choose in (lambda rows: 1, lambda rows: 3 if rows > 1 else 1, lambda rows: 1 if rows > 1 else 3):
            with Runner(model, load_kernels(), 3, choose=choose) as runner:
                state = runner.new_state(64)
                logits.append([runner.run([Feed(state, tokens)])[0] for tokens in (prompt, [1], [2], prompt[:5])])
    for others in logits[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(logits[0], others, strict=True))
