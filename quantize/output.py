"""The output folder of a quantization: staged as `NAME.partial`, renamed into place only when whole.

A run that was interrupted, or that ran out of disk or memory, leaves its stage, if there is finished work in it, to be
resumed; one whose input is refused removes it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_lfm.errors import EdgeLfmError, OutputError
from edge_lfm.formats.packed import sync_folder
from edge_lfm.quantize.journal import is_locked

JOURNAL = "journal.jsonl"
"""The file of a stage that says what is finished; it goes before the stage becomes the output."""


def check_output(output: Path, source: Path | None, force: bool, mark: str = "config.json") -> None:
    """Refuse an output that exists, or that lies in the source; `mark`: the file by which a former output is known.

    Raises:
        OutputError: it does.
    """
    target = output.resolve()
    if source is not None:
        inside = source.resolve()
        if target == inside or inside in target.parents or target in inside.parents:
            raise OutputError(
                f"the output {output} and the input {source} lie in each other", hint="choose another folder with -o"
            )
    try:
        taken = output.exists()
        is_model = taken and output.is_dir() and (not any(output.iterdir()) or (output / mark).exists())
    except OSError as error:
        raise OutputError(
            f"{output} cannot be looked at: {error.strerror}", hint="check the folder's permissions"
        ) from None
    if taken and not force:
        raise OutputError(f"{output} exists", hint="choose another folder, or add --force to replace it")
    if taken and not is_model:
        raise OutputError(
            f"{output} is not a model folder" if mark == "config.json" else f"{output} has no {mark}",
            hint="--force replaces only what this command makes; choose another name",
        )


def stage_of(output: Path) -> Path:
    """Where an output is made."""
    whole = Path(os.path.abspath(output))  # `.` has no name
    return whole.with_name(whole.name + ".partial")


@contextmanager
def staged_folder(output: Path, fingerprint: str = "", resume: bool = False, force: bool = False) -> Iterator[Path]:
    """A folder to write into, which becomes `output` when the block ends without an exception.

    Args:
        output: the folder to be made.
        fingerprint: what an unfinished run must have begun with to be resumed.
        resume: go on with an unfinished run.
        force: throw away an unfinished run.

    Raises:
        OutputError: the folder cannot be made or renamed, or an unfinished run stands in the way.
    """
    output, stage = Path(os.path.abspath(output)), stage_of(output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if is_locked(stage / JOURNAL):
            raise OutputError(f"another edge-lfm is writing to {stage}", hint="wait for it, or end it")
        if (stage / JOURNAL).exists() and not resume and not force:
            raise OutputError(f"{stage} is an unfinished run", hint="--resume goes on with it, --force starts anew")
        if not resume:
            shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(exist_ok=resume)
    except OSError as error:
        raise OutputError(f"{stage} cannot be made: {error.strerror}", hint="check the folder's permissions") from None
    try:
        yield stage
        sync_folder(stage)
        _replace(stage, output)
    except OSError as error:
        hint = "make room and add --resume" if _leave(stage) else "check space and permissions"
        raise OutputError(f"{output} cannot be written: {error.strerror}", hint=hint) from None
    except BaseException as error:
        if isinstance(error, EdgeLfmError) and not isinstance(error, OutputError):
            shutil.rmtree(stage, ignore_errors=True)
        else:
            _leave(stage)
        raise


def _leave(stage: Path) -> bool:
    """Keep an interrupted stage only if it holds work that can be resumed; whether it does."""
    try:
        worth = len((stage / JOURNAL).read_bytes().splitlines()) > 1
    except OSError:
        worth = False
    if not worth:
        shutil.rmtree(stage, ignore_errors=True)
    return worth


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file and flush it to disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def _replace(stage: Path, output: Path) -> None:
    old = output.with_name(output.name + ".old")
    if output.exists():
        shutil.rmtree(old, ignore_errors=True)
        output.rename(old)
    stage.rename(output)
    sync_folder(output.parent)
    shutil.rmtree(old, ignore_errors=True)
