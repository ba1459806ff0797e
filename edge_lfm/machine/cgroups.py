"""The control groups that limit this process: its own and their parents, as far as they can be seen from here.

Versions 1 and 2, side by side too. A container sees a part of the tree: `/proc/self/cgroup` names the group, and
`/proc/self/mountinfo` tells which group lies at the mount's root. Knows no controller's files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

_FOLDER = "sys/fs/cgroup"


@dataclass(frozen=True)
class Group:
    """One control group. `version`: 1 or 2, which have other files."""

    folder: Path
    version: int

    def words(self, file: str) -> list[str]:
        """The words of one of its files; none if it has no such file."""
        try:
            return (self.folder / file).read_text(encoding="ascii").split()
        except (OSError, ValueError):
            return []

    def number(self, file: str) -> int | None:
        """The number in one of its files; None: there is none, or "max"."""
        words = self.words(file)
        return int(words[0]) if words and re.fullmatch(r"-?\d+", words[0]) else None

    def table(self, file: str) -> dict[str, int]:
        """The named numbers of one of its files, as in `memory.stat`."""
        words = self.words(file)
        return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=False) if value.isdecimal()}


@dataclass(frozen=True)
class _Mount:
    """A mounted tree of groups: `top` is the name of the group at its root."""

    point: Path
    top: str
    version: int
    controllers: frozenset[str]


def groups_of(controller: str, root: Path = Path("/")) -> Iterator[Group]:
    """The groups of a controller (`memory`, `cpu`) that hold this process, the innermost of each tree first."""
    named = dict(_named_groups(root))
    for mount in _mounts(controller, root):
        if mount.version == 1 and controller not in mount.controllers:
            continue
        folder = mount.point / _below(named.get(controller if mount.version == 1 else "", "/"), mount.top)
        while folder != mount.point.parent:
            yield Group(folder, mount.version)
            folder = folder.parent


def _below(name: str, top: str) -> str:
    """Where a group lies in a mount whose root is the group `top`; its root, if the group cannot be seen there."""
    path = PurePosixPath(name)
    if ".." in path.parts or not path.is_relative_to(top):
        return ""
    return str(path.relative_to(top))


def _named_groups(root: Path) -> Iterator[tuple[str, str]]:
    """Controller and group of this process; the controller of version 2 is ""."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, name = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, name


@cache
def _mounts(controller: str, root: Path) -> list[_Mount]:
    """Every mounted tree of groups; the usual places where the system does not tell. They stay while a process runs."""
    mounts = []
    for line in _lines(root / "proc/self/mountinfo"):
        fields, _, rest = line.partition(" - ")
        kind, _, options = rest.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            top, point = (_unescaped(field) for field in fields.split(" ")[3:5])
            version = 2 if kind == "cgroup2" else 1
            mounts.append(_Mount(root / point.lstrip("/"), top, version, frozenset(options.split(","))))
    usual = [
        _Mount(root / _FOLDER, "/", 2, frozenset()),
        _Mount(root / _FOLDER / controller, "/", 1, frozenset([controller])),
    ]
    return mounts or usual


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
