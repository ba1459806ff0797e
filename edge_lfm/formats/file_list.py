"""`edge_lfm_files.json`: which files of a folder edge-lfm made, and the SHA-256 of those that nothing else checks.

The list makes a folder ours beyond doubt: nothing is deleted or replaced that does not stand in one. Models of earlier
versions have none; readers of those versions do not look for it. Knows no meanings of files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection
from pathlib import Path

from edge_lfm.errors import ModelFileError
from edge_lfm.formats.strict import read_json

LIST = "edge_lfm_files.json"
EARLIER_FILES = (
    "model.safetensors", "config.json", "README.md", "quantization_report.json", "forecast.safetensors",
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
    "special_tokens_map.json",
)  # fmt: skip
"""What models of earlier versions hold, which have no list."""
_MADE_BY = "edge-lfm"
_UNCHECKED = ("model.safetensors", "README.md")  # has checksums of its own; may be written anew
_MAX_CHECKED_BYTES = 1 << 30  # the data of an ONNX graph may be larger
_NAME = re.compile(r"[^./\x00-\x1f\x7f][^/\x00-\x1f\x7f]{0,254}")


def write_list(folder: Path, only: Collection[str] | None = None) -> None:
    """Write the list of the files that a folder has now, or of those of them that `only` names. Raises OSError."""
    paths = [p for p in sorted(folder.iterdir()) if p.is_file() and p.name != LIST and _NAME.fullmatch(p.name)]
    files = {p.name: _checksum(p) for p in paths if only is None or p.name in only}
    text = json.dumps({"made_by": _MADE_BY, "files": files}, indent=2, ensure_ascii=False) + "\n"
    partial = folder / f".{LIST}.partial"
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(folder / LIST)


def read_list(folder: Path) -> dict[str, str | None] | None:
    """SHA-256 (or None: not checked) by name; None if the folder has no list.

    Raises:
        ModelFileError: the list is damaged.
    """
    path = folder / LIST
    if not path.exists():
        return None
    listed = read_json(path)
    files = listed.get("files")
    if listed.get("made_by") != _MADE_BY or not isinstance(files, dict):
        raise ModelFileError(f"{path} is no list of files that edge-lfm made", hint="copy the folder again")
    for name, checksum in files.items():
        if not _NAME.fullmatch(name) or not (checksum is None or isinstance(checksum, str)):
            raise ModelFileError(f"{path} names {name!r:.80}, which is no file beside it", hint="copy the folder again")
    return files


def is_ours(folder: Path) -> bool:
    """Whether edge-lfm made this folder."""
    try:
        return read_list(folder) is not None
    except ModelFileError:
        return False


def changed_files(folder: Path) -> list[str] | None:
    """The files that are missing or not as they were written; None if the folder has no list.

    Raises:
        ModelFileError: the list is damaged, or a file cannot be read.
    """
    files = read_list(folder)
    if files is None:
        return None
    return [name for name, checksum in files.items() if not _is_unchanged(folder / name, checksum)]


def check_unchanged(path: Path) -> None:
    """Refuse a file that stands in its folder's list and is not as it was written.

    Raises:
        ModelFileError: it is so.
    """
    files = read_list(path.parent) or {}
    if path.name in files and not _is_unchanged(path, files[path.name]):
        raise ModelFileError(
            f"{path} is not as it was written",
            hint=f"copy it again; if you changed it yourself: edge-lfm verify {path.parent} --accept",
        )


def _is_unchanged(path: Path, checksum: str | None) -> bool:
    try:
        return path.is_file() and checksum in (None, _checksum(path))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}", hint="copy it again") from None


def _checksum(path: Path) -> str | None:
    if path.name in _UNCHECKED or path.stat().st_size > _MAX_CHECKED_BYTES:
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
