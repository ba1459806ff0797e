"""What a maintainer asks about a machine, each fact as one line of `edge-lfm doctor`. Judges nothing."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from functools import reduce
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from edge_lfm.cli.arguments import gigabytes
from edge_lfm.cli.devices import processor_name
from edge_lfm.kernels.load.library import source_hash
from edge_lfm.kernels.spec.isa import TIERS, processor_flags
from edge_lfm.kernels.spec.layout import LAYOUT_VERSION
from edge_lfm.machine.cgroups import groups_of
from edge_lfm.machine.memory import memory_limit
from edge_lfm.paths import cache_folder, models_folder

_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD")
_NO_LIMIT = ("max", "-1", str(2**63 - 4096), str(2**63 - 65536))
"""Version 1 writes 2**63 less a page, of 4 or 64 KiB, where no limit of memory was set."""
_LIMITS = {"memory": ("memory.max", "memory.high", "memory.limit_in_bytes"), "cpu": ("cpu.max", "cpu.cfs_quota_us")}


def processor() -> str:
    """Name, processors that this process may use, and the features that kernels can make use of."""
    used = reduce(frozenset.union, (tier.requires for tier in TIERS))
    flags = " ".join(sorted(used & processor_flags())) or "no vector features that kernels use"
    return f"{processor_name()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} processors, {flags}"


def sources() -> str:
    """The packed layout that is read, and the first digits of the SHA-256 of the kernels' sources."""
    library = " ".join(platform.libc_ver())
    return f"packed layout {LAYOUT_VERSION}, kernels' source {source_hash()[:12]}, C library {library}"


def packages() -> str:
    """Every installed package that edge-lfm can use, less those of its developers."""
    lines = [
        line for line in requires("edge-lfm") or [] if not re.search(r"extra == ['\"](dev|golden|site)['\"]", line)
    ]
    names = sorted({re.split(r"[^A-Za-z0-9._-]", line)[0] for line in lines} - {"edge-lfm"})
    return ", ".join(f"{name} {found}" for name in names if (found := _version(name)))


def limits(root: Path = Path("/")) -> str:
    """The smallest limit of memory and what sets it; then the files of control groups that set any."""
    limit = memory_limit(root)
    parts = [f"{gigabytes(limit.nbytes)} by {limit.where}"]
    for controller, files in _LIMITS.items():
        for group in groups_of(controller, root):
            for file in files:
                words = group.words(file)
                if words and words[0] not in _NO_LIMIT:
                    parts.append(f"{group.folder / file}: {' '.join(words)}")
    return "; ".join(parts)


def folders() -> str:
    """Cache and models, each with what it holds."""
    return ", ".join(f"{folder}: {gigabytes(_size(folder))}" for folder in (cache_folder(), models_folder()))


def environment(variables: Mapping[str, str]) -> str:
    """The variables that edge-lfm and its libraries heed; of keys and tokens only that they are set."""
    heeded = {k: v for k, v in variables.items() if k.startswith("EDGE_LFM_") or k in ("PYTHONPATH", "OMP_NUM_THREADS")}
    shown = [f"{name}={'(hidden)' if _SECRET.search(name) else value}" for name, value in sorted(heeded.items())]
    return " ".join(shown) or "no variables set"


def _size(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:  # another process has just removed it
                continue
    return total


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
