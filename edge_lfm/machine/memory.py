"""How much memory this process may have, as the kernel counts it: of the machine, and of its control groups.

Pages of files that can be dropped at once are free, in a group as on the machine: a model that was just copied or
verified fills the page cache, and takes no memory from the next process. Knows no models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_lfm.machine.cgroups import Group, groups_of

_UNLIMITED = 1 << 62
"""Version 1 writes 2**63 less a page where no limit was set."""


@dataclass(frozen=True)
class MemoryLimit:
    """The most that this process can ever have. `where`: what sets it, for people."""

    nbytes: int
    where: str


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that a new process may use: free and reclaimable memory, within the limits of its control groups."""
    available = _meminfo(root).get("MemAvailable", _UNLIMITED)
    for group in groups_of("memory", root):
        limit = _limit_of(group)
        if limit < _UNLIMITED:
            available = min(available, max(0, limit - _used_of(group)))
    return available


def memory_limit(root: Path = Path("/")) -> MemoryLimit:
    """The smallest of the machine's memory and the limits of this process's control groups."""
    return min(_limits(root), key=lambda limit: limit.nbytes)


def _limits(root: Path) -> Iterator[MemoryLimit]:
    yield MemoryLimit(_meminfo(root).get("MemTotal", _UNLIMITED), "this machine's memory")
    for group in groups_of("memory", root):
        yield MemoryLimit(_limit_of(group), f"the memory limit of the control group {group.folder}")


def _limit_of(group: Group) -> int:
    """A process above `max` is killed, one above `high` is slowed down until it seems to stand still."""
    if group.version == 2:
        limits = [group.number("memory.max"), group.number("memory.high")]
    else:  # the second one heeds parents too that cannot be seen from inside a container
        limits = [group.number("memory.limit_in_bytes"), group.table("memory.stat").get("hierarchical_memory_limit")]
    return min((limit for limit in limits if limit is not None), default=_UNLIMITED)


def _used_of(group: Group) -> int:
    """What is charged to a group and cannot be dropped: without its file pages, shared memory included."""
    table = group.table("memory.stat")
    if group.version == 2:
        used, reclaimable = group.number("memory.current"), ["inactive_file", "active_file", "slab_reclaimable"]
    else:
        used, reclaimable = group.number("memory.usage_in_bytes"), ["total_inactive_file", "total_active_file"]
    return max(0, (used or 0) - sum(table.get(name, 0) for name in reclaimable))


def _meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {f[0].rstrip(":"): int(f[1]) * 1024 for f in fields if len(f) > 1 and f[1].isdecimal()}
