"""How many threads to use: performance cores that this process may run on, within its cgroup's CPU quota."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from edge_lfm.errors import UsageError

MOST_THREADS = 256


def physical_cores(root: Path = Path("/sys/devices/system/cpu"), cpus: Iterable[int] | None = None) -> int:
    """Performance cores among `cpus` (default: this process's affinity); hyperthreads count once.

    Where cores differ (big.LITTLE, hybrid x86), those below 3/4 of the fastest one's capacity are left out:
    every thread waits for the slowest at each barrier, so slow cores cost more than they add.
    """
    cores: dict[str, int] = {}
    for cpu in os.sched_getaffinity(0) if cpus is None else cpus:
        folder = root / f"cpu{cpu}"
        siblings = _read(folder / "topology/thread_siblings_list") or str(cpu)
        speed = _read(folder / "cpu_capacity") or _read(folder / "cpufreq/cpuinfo_max_freq")
        cores[siblings] = int(speed) if speed.isdecimal() else 0
    fastest = max(cores.values(), default=0)
    return max(1, sum(4 * speed >= 3 * fastest for speed in cores.values()))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def cpu_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs that the cgroup grants, or None if it sets no quota."""
    try:
        quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (root / "cpu/cpu.cfs_period_us").read_text(encoding="ascii")
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except ValueError:  # "max"
        return None


def choose_threads(asked: int | None = None) -> int:
    """`asked`, else `EDGE_LFM_THREADS`, else the physical cores within the quota.

    Raises:
        UsageError: the number asked for is not 1..256.
    """
    if asked is None and os.environ.get("EDGE_LFM_THREADS"):
        text = os.environ["EDGE_LFM_THREADS"]
        asked = int(text) if text.isdecimal() else -1
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= MOST_THREADS:
            raise UsageError(f"{asked} threads", hint=f"give a number of 1..{MOST_THREADS}, best the number of cores")
        return asked
    quota = cpu_quota()
    cores = physical_cores()
    return max(1, min(cores, round(quota))) if quota else cores
