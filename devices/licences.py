"""Licences of wheels, as their own metadata states them. Knows no bundle."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

from edge_lfm.errors import EdgeLfmError

_LONGEST = 100
"""Characters: older packages have the whole text in the field that should name the licence."""
_NAMES = ("licen", "copying", "notice", "copyright")


@dataclass(frozen=True)
class Package:
    """A wheel: its name and version, its licence ("": not stated), its files of licence texts, paths inside it."""

    name: str
    version: str
    licence: str
    texts: tuple[str, ...]


def read_wheel(path: Path) -> Package:
    """What a wheel says of itself.

    Raises:
        EdgeLfmError: it is no wheel.
    """
    try:
        with zipfile.ZipFile(path) as wheel:
            names = [name for name in wheel.namelist() if not name.endswith("/")]
            (described,) = (name for name in names if name.endswith(".dist-info/METADATA") and name.count("/") == 1)
            metadata = HeaderParser().parsestr(wheel.read(described).decode("utf-8"))
            if not metadata["Name"] or not metadata["Version"]:
                raise ValueError(f"{described} has no name or no version")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise EdgeLfmError(f"{path} is not a wheel: {error}", hint="fetch it again") from None
    texts = tuple(sorted(name for name in names if _is_licence(PurePosixPath(name))))
    return Package(metadata["Name"], metadata["Version"], _licence(metadata), texts)


def _is_licence(path: PurePosixPath) -> bool:
    return path.name.lower().startswith(_NAMES) and path.suffix in ("", ".txt", ".md", ".rst")


def _licence(metadata: Message) -> str:
    """The licence expression, else the older field, else the classifiers."""
    stated = str(metadata["License-Expression"] or metadata["License"] or "").strip()
    if stated and len(stated) <= _LONGEST and "\n" not in stated:
        return stated
    marks = [str(mark) for mark in metadata.get_all("Classifier", []) if str(mark).startswith("License ::")]
    return " and ".join(mark.rpartition(" :: ")[2] for mark in marks)


def licence_list(wheels: Sequence[Path]) -> str:
    """A text: each package with version and licence, and where in its wheel the texts are.

    Raises:
        EdgeLfmError: one of them is no wheel.
    """
    parts = []
    for package in sorted(map(read_wheel, wheels), key=lambda package: package.name.lower()):
        parts.append(f"{package.name} {package.version}: {package.licence or 'no licence stated'}\n")
        parts += [f"    {text}\n" for text in package.texts]
    return "".join(parts)
