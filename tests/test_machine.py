"""Memory and processors as the kernel counts them: made-up machines of both versions, and real control groups."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from edge_lfm.errors import UsageError
from edge_lfm.machine.cgroups import groups_of
from edge_lfm.machine.heap import HEAPS
from edge_lfm.machine.memory import MemoryLimit, available_memory, memory_limit
from edge_lfm.machine.processors import GrantedProcessors, choose_threads, cpu_quota, granted_processors
from edge_lfm.memory.budget import Budget

MIB = 1 << 20
GROUP_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"),
    2: ("memory.max", "memory.current", "inactive_file", "active_file"),
}


def write(path: Path, text: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n", encoding="ascii")


def tree_of(root: Path, version: int, controller: str) -> Path:
    return root / "sys/fs/cgroup" if version == 2 else root / "sys/fs/cgroup" / controller


def machine(root: Path, version: int, group: str = "/", available_kb: int = 8_000_000) -> Path:
    """A machine of 16 GB whose process is in a group."""
    write(root / "proc/meminfo", f"MemTotal: 16000000 kB\nMemAvailable: {available_kb} kB")
    write(root / "proc/self/cgroup", f"0::{group}" if version == 2 else f"4:memory:{group}\n1:cpu,cpuacct:{group}")
    return root


def limit_memory(folder: Path, version: int, limit: object, used: int, inactive: int, active: int) -> None:
    limit_file, used_file, *names = GROUP_FILES[version]
    write(folder / limit_file, limit)
    write(folder / used_file, used)
    write(folder / "memory.stat", f"anon 5\n{names[0]} {inactive}\n{names[1]} {active}")


def limit_cpus(folder: Path, version: int, quota: int | None) -> None:
    if version == 2:
        write(folder / "cpu.max", f"{'max' if quota is None else quota} 100000")
    else:
        write(folder / "cpu.cfs_quota_us", -1 if quota is None else quota)
        write(folder / "cpu.cfs_period_us", 100000)


@pytest.mark.parametrize("version", [1, 2])
def test_the_page_cache_of_a_group_is_free(tmp_path: Path, version: int) -> None:
    root = machine(tmp_path, version)
    folder = tree_of(root, version, "memory")
    assert available_memory(root) == 8_000_000 * 1024
    limit_memory(folder, version, 900 * MIB, 890 * MIB, 500 * MIB, 300 * MIB)
    assert available_memory(root) == (900 - 890 + 500 + 300) * MIB
    assert memory_limit(root).nbytes == 900 * MIB and str(folder) in memory_limit(root).where
    limit_memory(folder, version, 900 * MIB, 950 * MIB, 0, 0)  # more is charged than the limit says
    assert available_memory(root) == 0
    for unlimited in ("max", (1 << 63) - 4096):
        limit_memory(folder, version, unlimited, 950 * MIB, 0, 0)
        assert available_memory(root) == 8_000_000 * 1024
        assert memory_limit(root).nbytes == 16_000_000 * 1024


def test_a_group_that_is_slowed_down_counts_as_limited(tmp_path: Path) -> None:
    root = machine(tmp_path, 2)
    folder = tree_of(root, 2, "memory")
    limit_memory(folder, 2, 900 * MIB, 100 * MIB, 0, 0)
    write(folder / "memory.high", 300 * MIB)
    assert (available_memory(root), memory_limit(root).nbytes) == (200 * MIB, 300 * MIB)


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_parents_bind(tmp_path: Path, version: int) -> None:
    root = machine(tmp_path, version, "/a/b/c")
    memory, cpus = tree_of(root, version, "memory") / "a", tree_of(root, version, "cpu") / "a"
    limit_memory(memory / "b/c", version, 4096 * MIB, 0, 0, 0)
    limit_memory(memory, version, 512 * MIB, 112 * MIB, 0, 0)
    assert available_memory(root) == 400 * MIB
    assert cpu_quota(root) is None
    limit_cpus(cpus / "b/c", version, None)
    assert cpu_quota(root) is None
    limit_cpus(cpus / "b/c", version, 300_000)
    assert cpu_quota(root) == 3
    limit_cpus(cpus, version, 50_000)
    assert cpu_quota(root) == 0.5 and granted_processors(root) == 1


def mounted(root: Path, version: int, top: str, point: str, controllers: str) -> None:
    kind, options = ("cgroup2", "rw") if version == 2 else ("cgroup", f"rw,{controllers}")
    other = "31 23 0:28 / /sys rw,relatime shared:7 - sysfs sysfs rw"
    write(root / "proc/self/mountinfo", f"{other}\n35 31 0:32 {top} {point} rw shared:9 - {kind} cgroup {options}")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("named", "top", "below"),
    [
        ("/docker/abc", "/docker/abc", ""),  # the host's names, the container's part of the tree
        ("/docker/abc/worker", "/docker/abc", "worker"),
        ("/docker/abc", "/", "docker/abc"),  # the host's names and the whole tree
        ("/", "/", ""),  # a namespace of its own
        ("/../other", "/", ""),  # outside of the namespace
        ("/docker/abcdef", "/docker/abc", ""),
    ],
)
def test_a_group_is_found_where_its_tree_is_mounted(
    tmp_path: Path, version: int, named: str, top: str, below: str
) -> None:
    root = machine(tmp_path, version, named)
    mounted(root, version, top, "/mnt/my\\040groups", "cpu,cpuacct")
    point = root / "mnt/my groups"
    groups = list(groups_of("cpu", root))
    assert groups[0].folder == point / below and groups[-1].folder == point
    limit_cpus(point / below, version, 200_000)
    assert cpu_quota(root) == 2
    assert not list(groups_of("memory", root)) if version == 1 else list(groups_of("memory", root)) == groups


def test_both_versions_side_by_side(tmp_path: Path) -> None:
    root = machine(tmp_path, 1, "/a")
    write(root / "proc/self/cgroup", "4:memory:/a\n0::/b")
    limit_memory(tree_of(root, 1, "memory") / "a", 1, 700 * MIB, 0, 0, 0)
    limit_memory(tree_of(root, 2, "memory") / "b", 2, 600 * MIB, 0, 0, 0)
    assert available_memory(root) == 600 * MIB


def test_a_parent_that_cannot_be_seen(tmp_path: Path) -> None:
    root = machine(tmp_path, 1)
    folder = tree_of(root, 1, "memory")
    write(folder / "memory.limit_in_bytes", (1 << 63) - 4096)
    write(folder / "memory.usage_in_bytes", 100 * MIB)
    write(folder / "memory.stat", f"hierarchical_memory_limit {400 * MIB}\ntotal_inactive_file 0")
    assert available_memory(root) == 300 * MIB and memory_limit(root).nbytes == 400 * MIB


@pytest.mark.parametrize("text", ["", "garbage", "1 2 3", "-1 100000", "100000 0", "max 100000"])
def test_what_is_no_quota(tmp_path: Path, text: str) -> None:
    root = machine(tmp_path, 2)
    write(tree_of(root, 2, "cpu") / "cpu.max", text)
    assert cpu_quota(root) is None


def test_a_budget_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that takes more than its control group's limit is killed, and cannot say why."""
    limit = MemoryLimit(1 << 30, "the memory limit of the control group /x")
    monkeypatch.setattr("edge_lfm.memory.budget.memory_limit", lambda: limit)
    with pytest.raises(UsageError, match=r"a budget of 1025M is more than .* /x, 1\.00 GiB") as raised:
        Budget.of("1025M")
    assert "leave it out" in raised.value.hint
    assert Budget.of("1G") == Budget(1 << 30, stated=True)


def test_a_system_without_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None and granted_processors(tmp_path) == len(os.sched_getaffinity(0))
    assert available_memory(tmp_path) == memory_limit(tmp_path).nbytes == 1 << 62


def test_a_change_is_seen_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, granted = 100.0, 4
    monkeypatch.setattr("edge_lfm.machine.processors.granted_processors", lambda: granted)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    count = GrantedProcessors()
    assert count() == 4
    granted, now = 1, 100.9
    assert count() == 4
    now = 101.0
    assert count() == 1
    granted, now = 3, 102.0
    assert count() == 3


@contextmanager
def real_group(controller: str) -> Iterator[Path]:
    """A control group of this machine; skips where none can be made."""
    top = Path("/sys/fs/cgroup") / controller
    folder = top / f"edge_lfm_test_{os.getpid()}"
    if os.geteuid() or not (top / "cgroup.procs").exists():
        pytest.skip("needs root and a tree of control groups of version 1")
    folder.mkdir()
    try:
        yield folder
    finally:
        for _ in range(50):
            with suppress(OSError):
                folder.rmdir()
                break
            time.sleep(0.1)


def run_inside(folder: Path, code: str) -> str:
    command = ["sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh", sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_a_real_quota_is_heeded() -> None:
    with real_group("cpu") as folder:
        inner = folder / "inner"
        inner.mkdir()
        try:
            (folder / "cpu.cfs_quota_us").write_text("100000", encoding="ascii")
            code = "from edge_lfm.machine.processors import *; print(cpu_quota(), choose_threads())"
            assert run_inside(folder, code) == "1.0 1"
            assert run_inside(inner, code) == "1.0 1", "a parent's quota binds"
            (inner / "cpu.cfs_quota_us").write_text("50000", encoding="ascii")
            assert run_inside(inner, code) == "0.5 1"
        finally:
            inner.rmdir()


def test_a_real_page_cache_is_free(tmp_path: Path) -> None:
    """A group of 300 MB that has just read a file of 400 MB."""
    file = tmp_path / "large"
    with file.open("wb") as output:
        output.truncate(400 * MIB)
        os.posix_fallocate(output.fileno(), 0, 400 * MIB)
    code = (
        "from edge_lfm.machine.memory import *\n"
        f"with open({str(file)!r}, 'rb') as file:\n"
        "    while file.read(1 << 20): pass\n"
        "print(available_memory() >> 20, memory_limit().nbytes >> 20)"
    )
    with real_group("memory") as folder:
        (folder / "memory.limit_in_bytes").write_text(str(300 * MIB), encoding="ascii")
        available, limit = map(int, run_inside(folder, code).split())
        assert limit == 300 and 240 <= available <= 300


def test_affinity_is_heeded() -> None:
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        assert granted_processors() == choose_threads() == 1
    finally:
        os.sched_setaffinity(0, cpus)


HEAPS_OF_THREADS = """
import ctypes, sys, threading
from edge_lfm.machine.heap import bound_heap
if sys.argv[2] == "bound":
    bound_heap()
together = threading.Barrier(8)
def work():
    together.wait()
    kept = [bytearray(1000) for _ in range(1000)]
    together.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
libc.fclose.argtypes, libc.malloc_info.argtypes = [ctypes.c_void_p], [ctypes.c_int, ctypes.c_void_p]
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="malloc_info is glibc's")
def test_a_bound_heap_gives_threads_none_of_their_own(tmp_path: Path) -> None:
    """As glibc itself counts them; without the bound there are more."""
    heaps = {}
    for how in ("bound", "free"):
        subprocess.run([sys.executable, "-c", HEAPS_OF_THREADS, str(tmp_path / how), how], check=True)
        heaps[how] = (tmp_path / how).read_text().count("<heap nr")
    assert heaps["bound"] <= HEAPS < heaps["free"]
