"""How many threads to use: performance cores that this process may run on, within its control groups' CPU quota.

Knows no models.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from edge_lfm.errors import UsageError
from edge_lfm.machine.cgroups import Group, groups_of

MAX_THREADS = 256
BYTES_PER_THREAD = 8 << 20
"""Weights that a step must read for each further thread to pay: 0.3 ms of one core, against 0.2 ms to wake and join a
thread. The demo model (3 MB a token) decodes 2 to 3 times faster with one thread than with two."""
_FURTHER_ROW = 16
"""Of a step's further rows so many weigh as much as its first, which reads the weights: a second thread then comes to
the demo model at 25 rows, a millisecond of one core. With 16 rows it still lost where other processes ran."""


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


def cpu_quota(root: Path = Path("/")) -> float | None:
    """CPUs that the control groups of this process grant, its parents' included; None if none sets a quota."""
    quotas = [quota for group in groups_of("cpu", root) if (quota := _quota_of(group)) is not None]
    return min(quotas, default=None)


def _quota_of(group: Group) -> float | None:
    if group.version == 2:
        words = group.words("cpu.max")
    else:
        words = group.words("cpu.cfs_quota_us") + group.words("cpu.cfs_period_us")
    if len(words) != 2 or not all(word.isdecimal() for word in words) or not int(words[1]):
        return None  # "max", or -1
    return int(words[0]) / int(words[1])


def granted_processors(root: Path = Path("/")) -> int:
    """How many threads of this process can run at once, by its affinity and its quota; at least 1."""
    quota, cpus = cpu_quota(root), len(os.sched_getaffinity(0))
    return max(1, min(cpus, round(quota))) if quota is not None else cpus


class GrantedProcessors:
    """`granted_processors` as it is now: a container's quota and a process's affinity change while it runs."""

    PERIOD_S = 1.0
    """Seconds. Asking takes half a millisecond, a two-thousandth of that."""

    def __init__(self) -> None:
        self._count = granted_processors()
        self._asked = time.monotonic()

    def __call__(self) -> int:
        """The number, at most a second old."""
        now = time.monotonic()
        if now - self._asked >= self.PERIOD_S:
            self._count, self._asked = granted_processors(), now
        return self._count


class StepThreads:
    """How many threads a step of so many rows gets now: as many as can run at once, and as pay for its work.

    bytes_per_row: weights that a token reads. granted: how many can run at once.
    """

    def __init__(self, bytes_per_row: int, granted: Callable[[], int] | None = None) -> None:
        self._bytes_per_row, self._granted = bytes_per_row, granted or GrantedProcessors()

    def __call__(self, rows: int) -> int:
        work = self._bytes_per_row * (_FURTHER_ROW - 1 + rows) // _FURTHER_ROW
        return min(self._granted(), 1 + work // BYTES_PER_THREAD)


def max_threads(asked: int | None = None) -> int:
    """The most threads that a model may ever run on, should the quota grow: `asked`, else `EDGE_LFM_THREADS`, else the
    physical cores.

    Raises:
        UsageError: the number asked for is not 1..256.
    """
    return stated_threads(asked) or physical_cores()


def choose_threads(asked: int | None = None) -> int:
    """`asked`, else `EDGE_LFM_THREADS`, else the physical cores within the quota.

    Raises:
        UsageError: the number asked for is not 1..256.
    """
    stated = stated_threads(asked)
    return min(physical_cores(), granted_processors()) if stated is None else stated


def stated_threads(asked: int | None = None) -> int | None:
    """`asked`, else `EDGE_LFM_THREADS`, else None.

    Raises:
        UsageError: the number asked for is not 1..256.
    """
    if asked is None and os.environ.get("EDGE_LFM_THREADS"):
        text = os.environ["EDGE_LFM_THREADS"]
        asked = int(text) if text.isdecimal() else -1
    if asked is None:
        return None
    if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= MAX_THREADS:
        raise UsageError(f"{asked} threads", hint=f"give a number of 1..{MAX_THREADS}, best the number of cores")
    return asked
