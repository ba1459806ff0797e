"""The output folder of a quantization: staged as `NAME.partial`, renamed into place only when whole.

An exception, Ctrl-C included, removes the stage; a killed process leaves only `NAME.partial`, which the
next run replaces.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_lfm.errors import OutputError
from edge_lfm.formats.packed import sync_folder


def check_output(output: Path, source: Path | None, force: bool) -> None:
    """Refuse an output that exists, or that lies in the source.

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
        is_model = taken and output.is_dir() and (not any(output.iterdir()) or (output / "config.json").exists())
    except OSError as error:
        raise OutputError(
            f"{output} cannot be looked at: {error.strerror}", hint="check the folder's permissions"
        ) from None
    if taken and not force:
        raise OutputError(f"{output} exists", hint="choose another folder, or add --force to replace it")
    if taken and not is_model:
        raise OutputError(f"{output} is not a model folder", hint="--force replaces only models; choose another name")


@contextmanager
def staged_folder(output: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `output` when the block ends without an exception.

    Raises:
        OutputError: the folder cannot be made or renamed.
    """
    stage = output.with_name(output.name + ".partial")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
    except OSError as error:
        raise OutputError(f"{stage} cannot be made: {error.strerror}", hint="check the folder's permissions") from None
    try:
        yield stage
        sync_folder(stage)
        _replace(stage, output)
    except OSError as error:
        shutil.rmtree(stage, ignore_errors=True)
        raise OutputError(f"{output} cannot be written: {error.strerror}", hint="check space and permissions") from None
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


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
