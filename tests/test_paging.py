"""Expert paging: the same numbers under any budget, slots kept in order, faults that hurt one request only."""

from __future__ import annotations

import io
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN_CASES, goldens_tool
from stepping import all_rows, paged_model, paging_ram

from edge_lfm.api import Model
from edge_lfm.architectures import read_shape
from edge_lfm.engine import paged
from edge_lfm.engine.cached_routing import choose_cached, parse_routing
from edge_lfm.engine.lookahead import Lookahead
from edge_lfm.engine.runner import Runner
from edge_lfm.errors import DoesNotFitError, ModelFileError, UsageError
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.memory import ranking
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.faults import MapGuard
from edge_lfm.memory.paging import PagingStats
from edge_lfm.memory.plan import MemoryPlan, plan_paging
from edge_lfm.memory.policy import HALF_LIVES, WEIGHTS, DecayedUse
from edge_lfm.memory.ranking import read_ranking, write_ranking
from edge_lfm.memory.reader import BlockReader, Slots
from edge_lfm.memory.residency import Residency
from edge_lfm.model.demand import demand_of
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.state import State
from edge_lfm.quantize.families import family_config
from edge_lfm.quantize.recipe import find_recipe


def logits_of(runner: Runner, ids: np.ndarray, splits: list[int]) -> np.ndarray:
    state = State(runner.model.shape, 2048)
    return np.concatenate([all_rows(runner, part, state) for part in np.split(ids, splits)])


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(3).integers(14, 4096, 150)


@pytest.fixture(scope="module")
def resident(demo: dict[str, Path], ids: np.ndarray) -> np.ndarray:
    with PackedModel(demo["balanced"]) as model, Runner(model, load_kernels(), 1) as runner:
        return logits_of(runner, ids, [100])


@pytest.mark.parametrize(("keep", "ring"), [(0, 4), (1, 5), (4, 4), (8, 16), (15, 4), (16, 4)])
@pytest.mark.parametrize(("threads", "way"), [(1, "read"), (2, "read"), (2, "map")])
def test_every_budget_gives_the_same_numbers(
    keep: int, ring: int, threads: int, way: str, demo: dict[str, Path], ids: np.ndarray, resident: np.ndarray
) -> None:
    """A prefill in two chunks (all 16 experts, in waves where they do not fit), and tokens one by one."""
    with paged_model(demo["balanced"], keep, ring, threads, way=way) as runner:
        pager = runner.pager
        assert pager is not None
        assert np.array_equal(logits_of(runner, ids, [100]), resident)
        first = pager.stats.misses.copy()
        assert (first <= 2 * 16).all(), "an expert is read at most once a chunk"
        assert np.array_equal(logits_of(runner, ids[:40], list(range(1, 40))), resident[:40])
        kept = [layer.kept for layer in pager.residency.layers.values()]
        assert sum(len(experts) for experts in kept) == pager.residency.kept_count <= keep * 6
        slots = [*pager.residency.free, *(slot for experts in kept for slot in experts.values())]
        assert sorted(slots) == list(range(keep * 6 + ring)), "no slot is lost or used twice"
        if keep == 16:
            before = pager.stats.bytes_read
            logits_of(runner, ids[:40], [20])
            assert pager.stats.bytes_read == before
        assert pager.stats.bytes_read == int(pager.stats.misses.sum()) * pager.store.block_bytes


@pytest.mark.parametrize("scheme", ["float32", "compact"])
@pytest.mark.parametrize(
    "case",
    [
        name
        for name, raw in GOLDEN_CASES.items()
        if raw.get("num_experts", raw.get("num_local_experts", raw.get("n_routed_experts")))
    ],
)
def test_paged_models_of_every_shape_equal_resident_ones(
    case: str, scheme: str, packed_cases: dict[str, dict[str, Path]]
) -> None:
    token_ids, folder = goldens_tool.token_ids(case), packed_cases[scheme][case]
    splits = [len(token_ids) // 2]
    with PackedModel(folder) as model, Runner(model, load_kernels(), 1, 64) as runner:
        expected = logits_of(runner, token_ids, splits)
    with paged_model(folder, 1, 8, chunk=64) as runner:
        assert np.array_equal(logits_of(runner, token_ids, splits), expected)


def test_budgets(demo: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    ram = paging_ram(demo["balanced"], 256)
    with Model.load(demo["balanced"]) as whole, Model.load(demo["balanced"], ram=ram, context=256) as small:
        assert whole.paging is None and small.paging is not None
        question = "What is the capital of France?"
        assert small.generate(question, temperature=0.0).text == "The capital of France is Paris."
        assert whole.generate(question, temperature=0.0).text == "The capital of France is Paris."
        assert small.paging.hit_rate < 1 and small.paging.bytes_read > 0
        assert small.context == 256 and whole.context == 2048
    with pytest.raises(DoesNotFitError, match=r"budget is 4\.0 MiB: 1\d\d\.\d MiB are missing"):
        Model.load(demo["balanced"], ram="4M", context=256)
    with pytest.raises(UsageError):
        Model.load(demo["balanced"], ram="much")
    for available, budget in ((8 << 30, (8 << 30) - (512 << 20)), (800 << 20, 700 << 20), (0, 0)):
        monkeypatch.setattr("edge_lfm.memory.budget.available_memory", lambda available=available: available)
        assert Budget.of("auto") == Budget.of(None) == Budget(budget, stated=False)


def test_a_budget_is_spent_whole_and_never_exceeded() -> None:
    shape = read_shape(family_config("lfm2-24b-a2b"))
    demand = demand_of(shape, plan_tensors(shape, find_recipe("balanced").schemes))
    for gib in (4, 6, 8, 12):
        budget = Budget(gib << 30, stated=True)
        plan = plan_paging(demand, 800 << 20, budget.nbytes)
        used = plan.fixed_bytes + plan.slots * plan.slot_bytes
        assert used <= budget.nbytes and plan.slot_bytes >= demand.expert_bytes
        assert plan.keep == 38 * 64 or budget.nbytes - used < plan.slot_bytes
    with pytest.raises(DoesNotFitError, match=r"budget is 1\.00 GiB"):
        plan.changed(Budget(1 << 30, stated=True))


def test_smaller_experts_use_the_room() -> None:
    """Slots are counted in bytes: as many more experts stay as they are smaller."""
    shape = read_shape(family_config("lfm2-24b-a2b"))
    kept = {}
    for name in ("balanced", "compact", "tiny"):
        demand = demand_of(shape, plan_tensors(shape, find_recipe(name).schemes))
        plan = plan_paging(demand, 800 << 20, 6 << 30)
        kept[name] = plan.keep * plan.slot_bytes
        assert (6 << 30) - plan.fixed_bytes - plan.slots * plan.slot_bytes < plan.slot_bytes
    assert max(kept.values()) - min(kept.values()) < 32 << 20


def test_the_score_is_the_weighted_sum_of_decayed_uses() -> None:
    rng = np.random.default_rng(0)
    steps = [np.stack([rng.permutation(8)[:2] for _ in range(tokens)]) for tokens in (1, 5, 1, 3)]
    policy = DecayedUse(8)
    for chosen in steps:
        policy.note(chosen)
    together = np.concatenate(steps)
    expected = np.zeros(8)
    for age, row in enumerate(together[::-1]):
        expected[row] += (WEIGHTS * 0.5 ** (age / HALF_LIVES)).sum()
    assert np.allclose(policy.scores, expected)


def test_an_expert_stays_only_if_it_is_worth_more() -> None:
    residency = Residency({5: DecayedUse(8)}, keep=2, slots=4)
    for expert in (0, 1):
        residency.note(5, np.array([[expert]] * 3))
        residency.admit(5, expert)
        residency.settle(5, [expert])
    residency.note(5, np.array([[2]]))
    slot = residency.admit(5, 2)
    residency.settle(5, [2], later=[0, 1])
    assert residency.slot(5, 2) is None and slot in residency.free, "both others are still needed"
    for _ in range(8):
        residency.note(5, np.array([[2]]))
    residency.admit(5, 2)
    residency.settle(5, [2])
    assert residency.slot(5, 2) is not None and residency.slot(5, 0) is None
    assert len(residency.resize(1, 3)) == 1
    assert set(residency.layers[5].kept) == {2} and len(residency.free) == 2
    residency.admit(5, 6)
    residency.drop(5, 6)
    assert len(residency.free) == 2
    assert residency.resize(2, 4) == [] and len(residency.free) == 3
    slots = [*residency.free, *residency.layers[5].kept.values()]
    assert sorted(slots) == [0, 1, 2, 3]


def test_layers_share_the_room_by_worth() -> None:
    """A layer that always uses the same experts keeps those; one that changes its mind leaves it the rest."""
    rng, experts = np.random.default_rng(0), 16
    residency = Residency({3: DecayedUse(experts), 7: DecayedUse(experts)}, keep=10, slots=14)
    for _ in range(200):
        for layer, chosen in ((3, np.arange(8)), (7, rng.permutation(experts)[:2])):
            residency.note(layer, chosen[None])
            missing = [int(e) for e in chosen if residency.slot(layer, int(e)) is None]
            for first in range(0, len(missing), 4):
                for expert in missing[first : first + 4]:
                    residency.admit(layer, expert)
                residency.settle(layer, missing[first : first + 4], missing[first + 4 :])
    assert sorted(residency.layers[3].kept) == list(range(8))
    assert residency.kept_count == 10 and len(residency.layers[7].kept) == 2 and len(residency.free) == 4


WHOLE_DOES_NOT_FIT = MemoryPlan(Budget(0, stated=True), 256, 1, 0, 1, None)


def test_a_budget_that_is_lowered_while_running(
    demo: dict[str, Path], ids: np.ndarray, resident: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_lfm.memory.plan.plan_whole", lambda *_: WHOLE_DOES_NOT_FIT)
    with Model.load(demo["balanced"], ram="900M", context=256) as model:
        runner = model.backend
        pager = runner.pager
        assert pager is not None and pager.residency.keep == 6 * 16
        assert np.array_equal(logits_of(runner, ids, [100]), resident)
        fixed, slot = pager.plan.fixed_bytes, pager.plan.slot_bytes
        model.change_budget(fixed + (16 + 6 * 5) * slot)
        assert pager.residency.keep == 30
        assert sum(len(layer.kept) for layer in pager.residency.layers.values()) == pager.residency.kept_count == 30
        assert len(pager.residency.free) == 16
        assert np.array_equal(logits_of(runner, ids, [100]), resident)
        with pytest.raises(DoesNotFitError):
            model.change_budget("1M")
        model.change_budget("900M")
        assert pager.residency.keep == 6 * 16
        assert np.array_equal(logits_of(runner, ids, [100]), resident)
    monkeypatch.undo()
    with Model.load(demo["int8"], ram="2G") as whole, pytest.raises(UsageError, match="whole model"):
        whole.change_budget("1G")


def test_direct_reads(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8)
    path = tmp_path / "blocks"
    content.tofile(path)
    slots, reader = Slots(3, 20_000), BlockReader(path)
    assert slots.slot_bytes == 20_480 and slots.address % 4096 == 0
    reads = [reader.read(n * 16_384, 20_000, slots.address_of(n)) for n in range(3)]
    for n, read in enumerate(reads):
        read.result()
        assert np.array_equal(slots.array()[n * 20_480 :][:20_000], content[n * 16_384 :][:20_000])
    assert reader.bytes_read == 60_000
    with pytest.raises(ModelFileError, match="inside a block"):
        reader.read(90_112, 20_000, slots.address_of(0)).result()
    with pytest.raises(ModelFileError, match="inside a block"):
        reader.read(200_704, 20_000, slots.address_of(0)).result()
    reader.close()
    with pytest.raises(ModelFileError):
        BlockReader(tmp_path / "absent")


def test_a_file_that_is_cut_while_running_fails_the_request_only(
    demo: dict[str, Path], tmp_path: Path, ids: np.ndarray, resident: np.ndarray
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(demo["balanced"], folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    with paged_model(folder, 2) as runner:
        pager = runner.pager
        assert pager is not None
        state = State(runner.model.shape, 2048)
        runner.read(ids[:50].tolist(), state)
        os.truncate(weights, len(whole) // 2)
        for _ in range(2):
            with pytest.raises(ModelFileError, match="truncated"):
                runner.read(ids[:50].tolist(), State(runner.model.shape, 2048))
            assert all(not layer.passing for layer in pager.residency.layers.values())
        weights.write_bytes(whole)  # the same file, whole again
        assert np.array_equal(logits_of(runner, ids, [100]), resident)
        weights.unlink()  # an open file stays readable
        assert np.array_equal(logits_of(runner, ids, [100]), resident)


def test_mapping_takes_no_more_memory_than_its_slots(demo: dict[str, Path], ids: np.ndarray) -> None:
    with paged_model(demo["float32"], 3, 4, way="map") as runner:
        assert runner.pager is not None
        for first in range(0, 150, 10):
            runner.read(ids[first : first + 10].tolist(), State(runner.model.shape, 2048))
        address, nbytes = runner.model.span
        held = resident_bytes(address)
        block = runner.pager.store.block_bytes
        # The kernel maps up to 64 KB on each side of what is asked for (fault-around), of the header too.
        assert 10 * block < held < (3 * 6 + 4) * (block + (128 << 10)) + (128 << 10) < nbytes / 2


def resident_bytes(address: int) -> int:
    """Of the mapping that begins at `address`, as the system counts them."""
    lines = iter(Path("/proc/self/smaps").read_text(encoding="ascii").splitlines())
    for line in lines:
        if line.startswith(f"{address:x}-"):
            return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("Rss:"))
    raise AssertionError("no such mapping")


@pytest.mark.parametrize("way", ["map", "whole"])
def test_a_mapped_file_that_is_cut_fails_requests_and_not_the_process(
    way: str, demo: dict[str, Path], tmp_path: Path, ids: np.ndarray, resident: np.ndarray
) -> None:
    """Reading what is gone raises SIGBUS in compiled code; the handler turns it into an error, for good."""
    folder = tmp_path / "m"
    shutil.copytree(demo["balanced"], folder)
    with running(folder, way, 4) as runner:
        runner.read(ids[:50].tolist(), State(runner.model.shape, 2048))
        os.truncate(folder / "model.safetensors", 1 << 20)
        for _ in range(2):
            with pytest.raises(ModelFileError, match=r"truncated|ends there"):
                for first in range(0, 150, 10):
                    runner.read(ids[first : first + 10].tolist(), State(runner.model.shape, 2048))
        with paged_model(demo["balanced"], 2) as other:  # another model is not concerned
            assert np.array_equal(logits_of(other, ids, [100]), resident)


@contextmanager
def running(folder: Path, way: str, keep: int) -> Iterator[Runner]:
    """A paged model, or one that is mapped whole."""
    if way != "whole":
        with paged_model(folder, keep, way=way) as runner:
            yield runner
    else:
        with PackedModel(folder) as model, Runner(model, load_kernels(), 2) as runner:
            yield runner


def test_guards_share_a_map_and_are_closed_twice() -> None:
    kernels, page = load_kernels(), mmap.PAGESIZE
    with tempfile.TemporaryFile() as file:
        file.truncate(2 * page)
        mapped = mmap.mmap(file.fileno(), 2 * page, access=mmap.ACCESS_READ)
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        first, second = MapGuard(kernels, address, 2 * page), MapGuard(kernels, address, 2 * page)
        file.truncate(page)
        assert mapped[10] == 0 and mapped[page + 10] == 0
        assert first.lost_pages == second.lost_pages == 1
        first.close()
        third = MapGuard(kernels, address, page)
        first.close()
        assert third._range[1] == address + page and first.lost_pages == 1
        for guard in (second, third):
            guard.close()


def test_other_bus_errors_end_the_process_as_ever(tmp_path: Path) -> None:
    code = (
        "import mmap, os, sys; from edge_lfm import Model; Model.load(); path = sys.argv[1]; "
        "open(path, 'wb').write(bytes(8192)); f = open(path, 'r+b'); m = mmap.mmap(f.fileno(), 0); "
        "os.truncate(path, 0); print(m[5000])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path / "x")], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGBUS and done.stdout == b""


@pytest.mark.parametrize(
    ("stated", "size", "slowdown", "way"),
    [(False, 1.1, 1.0, "map"), (False, 1.1, 3.0, "read"), (False, 1.5, 1.0, "read"), (True, 1.1, 1.0, "read")],
)
def test_the_way_of_paging_is_chosen_by_measurement(
    stated: bool, size: float, slowdown: float, way: str, demo: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = iter([1000.0, 1000.0 / slowdown])
    monkeypatch.setattr(paged, "_rate", lambda store, offsets: next(rates))
    with PackedModel(demo["balanced"]) as model:
        reader = BlockReader(model.folder / "model.safetensors")
        budget = Budget(int(model.nbytes / size), stated)
        assert paged.choose_way(model, reader, budget) == way
        monkeypatch.undo()
        assert paged.choose_way(model, reader, budget) in ("map", "read")  # by the real probe
        reader.close()


@pytest.mark.parametrize("way", ["read", "map"])
def test_two_processes_on_one_model(way: str, demo: dict[str, Path], ids: np.ndarray, resident: np.ndarray) -> None:
    """Another process pages the same file meanwhile; both get the right numbers."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[3]); from test_paging import *; "
        "ids = np.random.default_rng(3).integers(14, 4096, 150)\n"
        "with paged_model(Path(sys.argv[1]), 2, way=sys.argv[2]) as runner:\n"
        "    found = [logits_of(runner, ids, [100]) for _ in range(10)]\n"
        "np.save(sys.stdout.buffer, np.stack(found))"
    )
    command = [sys.executable, "-P", "-c", code, str(demo["balanced"]), way, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        with paged_model(demo["balanced"], 2, way=way) as runner:
            for _ in range(10):
                assert np.array_equal(logits_of(runner, ids, [100]), resident)
        output, _ = other.communicate(timeout=120)
    assert all(np.array_equal(found, resident) for found in np.load(io.BytesIO(output)))


@pytest.fixture
def failing_disk(demo: dict[str, Path], tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A model on a file system in an image, and the image: cut it, and its disk fails."""
    image, there = tmp_path / "disk.img", tmp_path / "disk"
    there.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("mounting an image needs root and mkfs.ext4")
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    mount = ["mount", "-o", "loop", str(image), str(there)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("loop devices cannot be mounted here")
    try:
        shutil.copytree(demo["balanced"], there / "m")
        subprocess.run(["umount", str(there)], check=True)
        subprocess.run(mount, check=True)  # with nothing of it in the system's cache
        yield there / "m", image
    finally:
        subprocess.run(["umount", "-l", str(there)], check=False, capture_output=True)


@pytest.mark.parametrize("way", ["read", "map", "whole"])
def test_a_disk_that_fails(way: str, failing_disk: tuple[Path, Path], ids: np.ndarray) -> None:
    folder, image = failing_disk
    with running(folder, way, 1) as runner:
        runner.read(ids[:1], State(runner.model.shape, 2048))  # one token: most experts have not been read
        os.truncate(image, 1 << 20)
        Path("/proc/sys/vm/drop_caches").write_text("1", encoding="ascii")
        with pytest.raises(ModelFileError, match=r"cannot be read|failed"):
            for first in range(0, 150, 10):
                runner.read(ids[first : first + 10].tolist(), State(runner.model.shape, 2048))


def test_a_second_start_reads_what_the_first_one_used(
    demo: dict[str, Path], tmp_path: Path, ids: np.ndarray, resident: np.ndarray
) -> None:
    path = tmp_path / "cache" / "ranking.f32"
    misses = []
    for _ in range(2):
        with paged_model(demo["balanced"], 8, ranking=path) as runner:
            wait([read for *_, read in runner.pager._early])
            assert np.array_equal(logits_of(runner, ids[:40], [39]), resident[:40])
            misses.append(int(runner.pager.stats.misses.sum()))
            slots = runner.pager.residency
            kept = [slot for layer in slots.layers.values() for slot in layer.kept.values()]
            assert sorted([*slots.free, *kept]) == list(range(8 * 6 + 4)) and slots.kept_count == len(kept)
    assert misses[1] < 0.7 * misses[0]
    with paged_model(demo["balanced"], 8, ranking=path) as runner:  # asked before anything has been read
        for read in runner.pager._early:
            read[2].cancel()
        assert np.array_equal(logits_of(runner, ids[:40], [39]), resident[:40])


def test_a_ranking_that_is_none_is_left_alone(demo: dict[str, Path], tmp_path: Path, ids: np.ndarray) -> None:
    path, shape = tmp_path / "ranking.f32", (6, len(HALF_LIVES), 16)
    good = np.ones(shape, np.float32)
    write_ranking(path, good)
    assert np.array_equal(read_ranking(path, 6, 16), good)  # type: ignore[arg-type]
    assert read_ranking(path, 7, 16) is None and read_ranking(tmp_path / "none.f32", 6, 16) is None
    for bad in (good * np.nan, good * 1e9, -good, good.astype(np.float64), good[0], np.zeros(0)):
        path.write_bytes(bad.tobytes())
        assert read_ranking(path, 6, 16) is None
    with paged_model(demo["balanced"], 2, ranking=path) as runner:
        runner.read(ids[:4], State(runner.model.shape, 2048))
    assert read_ranking(path, 6, 16) is not None
    write_ranking(Path("/proc/none/ranking.f32"), good)  # no cache can be written: nothing happens


def test_rankings_of_the_models_used_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "MAX_RANKINGS", 3)
    for n in range(5):
        write_ranking(tmp_path / f"{n}.f32", np.ones((1, len(HALF_LIVES), 4), np.float32))
        os.utime(tmp_path / f"{n}.f32", (n, n))
    write_ranking(tmp_path / "5.f32", np.ones((1, len(HALF_LIVES), 4), np.float32))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3.f32", "4.f32", "5.f32"]


def test_an_interrupted_step_loses_no_slot(demo: dict[str, Path], ids: np.ndarray, resident: np.ndarray) -> None:
    with paged_model(demo["balanced"], 2) as runner:
        pager = runner.pager
        assert pager is not None
        wait, calls = pager.wait, 0

        def interrupted(layer, wave) -> None:
            nonlocal calls
            calls += 1
            if calls == 4:
                raise KeyboardInterrupt
            wait(layer, wave)

        pager.wait = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            logits_of(runner, ids, [100])
        pager.wait = wait  # type: ignore[method-assign]
        assert np.array_equal(logits_of(runner, ids, [100]), resident)
        kept = [slot for layer in pager.residency.layers.values() for slot in layer.kept.values()]
        assert sorted([*pager.residency.free, *kept]) == list(range(2 * 6 + 4))


def test_reading_ahead_changes_no_number_and_loses_no_slot(
    demo: dict[str, Path], ids: np.ndarray, resident: np.ndarray
) -> None:
    with paged_model(demo["balanced"], 4, 16, guessing=True) as runner:
        pager = runner.pager
        assert np.array_equal(logits_of(runner, ids, [100]), resident)
        assert np.array_equal(logits_of(runner, ids[:60], list(range(1, 60))), resident[:60])
        assert pager.stats.ahead_used > 0
        pager.land(wait=True)
        assert all(not layer.passing for layer in pager.residency.layers.values())
        kept = [slot for layer in pager.residency.layers.values() for slot in layer.kept.values()]
        assert sorted([*pager.residency.free, *kept]) == list(range(4 * 6 + 16))


def test_guesses_name_most_of_the_next_experts(demo: dict[str, Path], demo_goldens: dict[str, dict]) -> None:
    """With the hidden state of the layer itself the guess is the router's own choice; one layer before, mostly."""
    with PackedModel(demo["balanced"]) as model, Runner(model, load_kernels(), 1) as runner:
        lookahead, right, total = Lookahead(model), 0, 0
        guessed: dict[int, set[int]] = {}

        def watch(layer: int, chosen: np.ndarray) -> None:
            nonlocal right, total
            if layer in guessed:
                right += len(guessed[layer] & set(chosen[0].tolist()))
                total += len(chosen[0])
            guess = lookahead.guess(layer, runner.step.hidden)
            assert (guess is None) == (layer == 7)
            if guess:
                guessed[guess[0]] = set(guess[1].tolist())

        state = State(model.shape, 512)
        for token in demo_goldens["story"]["prompt_ids"] + demo_goldens["story"]["greedy_ids"]:
            guessed.clear()
            all_rows(runner, [token], state, routing=watch)
    assert total > 500 and right / total > 0.5  # by chance: 0.25


def test_nothing_is_read_on_a_guess_while_the_disk_is_saturated(demo: dict[str, Path]) -> None:
    with paged_model(demo["balanced"], 4, 16) as runner:
        pager = runner.pager
        assert pager is not None and pager.may_read_ahead
        for _ in range(60):
            pager.note_step(1.0, 0.95)
        assert not pager.may_read_ahead
        for _ in range(60):
            pager.note_step(1.0, 0.3)
        assert pager.may_read_ahead


@pytest.mark.parametrize("text", ["cached", "cached:", "cached:0", "cached:2", "cached:x", "fast", ""])
def test_routings_that_there_are_not(text: str) -> None:
    with pytest.raises(UsageError, match="routing"):
        parse_routing(text)


def test_cached_routing_prefers_what_is_there_within_its_margin() -> None:
    router = next(iter(read_shape(GOLDEN_CASES["moe"]).routers.values()))
    k = router.top_k
    scores = np.array([0.5, 0.9, 0.8, 0.78, 0.6, 0.4, 0.3, 0.2], np.float32)
    nothing, some = np.zeros(8, bool), np.isin(np.arange(8), [3, 4])
    exact, weights = choose_cached(scores, None, nothing, 0.9, router)
    assert exact.tolist() == np.argsort(-scores)[:k].tolist()
    assert weights.sum() == pytest.approx(router.scale, rel=1e-3)
    assert choose_cached(scores, None, some, 1.0, router)[0].tolist() == exact.tolist()
    assert choose_cached(scores, None, some, 0.95, router)[0][:2].tolist() == [1, 3], "0.78 is within 5 % of 0.8"
    assert choose_cached(scores, None, some, 0.5, router)[0][0] == 1, "the first choice is always taken"
    biased = choose_cached(scores, np.float32(1) * (np.arange(8) == 7), nothing, 0.9, router)[0]
    assert biased[0] == 7


@pytest.mark.slow
def test_cached_routing_reads_less_and_ratio_one_is_exact(demo: dict[str, Path], ids: np.ndarray) -> None:
    def run(ratio: float | None) -> tuple[np.ndarray, int]:
        with paged_model(demo["balanced"], 4, 16, cached_ratio=ratio) as runner:
            found = logits_of(runner, ids, list(range(1, len(ids))))
            return found, int(runner.pager.stats.misses.sum())

    exact, misses = run(None)
    same, same_misses = run(1.0)
    assert np.abs(same - exact).max() < 1e-4 and same_misses == misses
    other, fewer = run(0.8)
    assert run(0.5)[1] < fewer < misses
    assert not np.array_equal(other, exact) and np.isfinite(other).all()


def test_ctrl_c_while_waiting_for_a_slow_disk_answers_at_once(
    demo: dict[str, Path], ids: np.ndarray, resident: np.ndarray
) -> None:
    """Reads that take 50 ms each, as experts of the 24B do from an SD card."""
    with paged_model(demo["balanced"], 1, 16, threads=2) as runner:
        pager = runner.pager
        assert pager is not None
        read, sent = pager.store.reader._read, []

        def slowly(*args: int) -> None:
            time.sleep(0.05)
            read(*args)

        def interrupt() -> None:
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        pager.store.reader._read = slowly  # type: ignore[method-assign]
        timer = threading.Timer(0.5, interrupt)
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            logits_of(runner, ids, list(range(1, len(ids))))
        assert time.perf_counter() - sent[0] < 0.2
        pager.store.reader._read = read  # type: ignore[method-assign]
        assert np.array_equal(logits_of(runner, ids, [100]), resident)


def test_a_live_line_tells_what_experts_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the window's title while the answer has the terminal's lines, on standard error while it goes elsewhere."""
    from edge_lfm.cli import live

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    clock = iter(np.arange(0.0, 1000.0, 0.25).tolist())
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock))
    stats = PagingStats(np.zeros(2, np.int64), np.zeros(2, np.int64), np.zeros(2))
    for out, before, after in ((Terminal(), "\x1b]2;", "\x1b[23;2t"), (io.StringIO(), "\r\x1b[K", "\r\x1b[K")):
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.stderr", errors := Terminal())
        line = live.LiveLine(stats)
        for _ in range(20):
            stats.hits += 3
            stats.misses += 1
            stats.bytes_read += 10_000_000
            line.part()
        line.close()
        shown = errors.getvalue()
        assert f"{before}16 tokens, 4.0 tok/s; experts 75% in memory, 10 MB read per token" in shown
        assert shown.endswith(after) and out.getvalue() == ""
    monkeypatch.setattr("sys.stderr", quiet := io.StringIO())
    line = live.LiveLine(stats)
    for _ in range(20):
        line.part()
    line.close()
    assert quiet.getvalue() == ""
