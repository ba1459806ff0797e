"""The output of a command that takes long: made in a folder `NAME.partial`, put into place only when whole.

The working folder holds a list of files (`formats/file_list.py`) from its first moment, by which it is known as ours;
one that has none belongs to the user and is left alone. A run that was interrupted, or that ran out of disk or memory,
leaves its stage, if there is finished work in it, to be resumed; one whose input is refused removes it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from edge_lfm.errors import DownloadError, EdgeLfmError, ModelFileError, OutputError
from edge_lfm.formats.exchange import exchange
from edge_lfm.formats.file_list import EARLIER_FILES, LIST, is_ours, read_list, write_list
from edge_lfm.formats.packed import sync_folder
from edge_lfm.formats.strict import read_json
from edge_lfm.locks import alone_in

JOURNAL = "journal.jsonl"
"""The file of a stage that says what is finished; it goes before the stage becomes the output."""


def check_output(output: Path, source: Path | None, force: bool, mark: str = "config.json") -> None:
    """Refuse an output that exists, unless it may be replaced, or that lies in the source.

    mark: the file without which this command makes no output.

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
        if taken and force:
            _check_replaceable(output, mark)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be looked at: {error.strerror}", hint="check the folder's permissions"
        ) from None
    if taken and not force:
        raise OutputError(f"{output} exists", hint="choose another folder, or add --force to replace it")


def _check_replaceable(output: Path, mark: str) -> None:
    """`--force` deletes what edge-lfm made, and nothing else."""
    names = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if output.is_dir() and not names:
        return
    listed = (read_list(output) or {}) if is_ours(output) else EARLIER_FILES if _is_earlier_model(output) else ()
    if mark not in names or mark not in listed:
        raise OutputError(
            f"{output} is not a model folder" if mark == "config.json" else f"{output} has no {mark}",
            hint="--force replaces only what this command makes; choose another name",
        )
    others = sorted(names - {*listed, LIST})
    if others:
        raise OutputError(
            f"{output} also holds {', '.join(others[:5])}, which edge-lfm did not make",
            hint="move that away, or choose another name",
        )


def _is_earlier_model(folder: Path) -> bool:
    try:
        packing = read_json(folder / "config.json").get("quantization_config")
    except ModelFileError:
        return False
    return isinstance(packing, dict) and packing.get("quant_method") == "edge_lfm"


def stage_of(output: Path) -> Path:
    """Where an output is made."""
    whole = Path(os.path.realpath(output))  # `.` has no name; a link's target lies where there is room for it
    return whole.with_name(whole.name + ".partial")


@contextmanager
def working_folder(output: Path, resume: bool = False, force: bool = False) -> Iterator[Path]:
    """The folder in which `output` is made, for one process alone.

    Args:
        output: the file or folder to be made.
        resume: keep what an unfinished run left there.
        force: throw away an unfinished run.

    Raises:
        OutputError: it cannot be made, is the user's own, holds an unfinished run, or another process is at it.
    """
    stage = stage_of(output)
    with ExitStack() as held:
        try:
            stage.parent.mkdir(parents=True, exist_ok=True)
            _take_alone(stage, held)
            if any(stage.iterdir()) and not is_ours(stage):
                raise OutputError(
                    f"{stage} is in the way, and edge-lfm did not make it", hint="move it away, or choose another name"
                )
            if (stage / JOURNAL).exists() and not resume and not force:
                raise OutputError(f"{stage} is an unfinished run", hint="--resume goes on with it, --force starts anew")
            if not resume or not is_ours(stage):
                _empty(stage)
                write_list(stage)
        except OSError as error:
            raise OutputError(
                f"{stage} cannot be made: {error.strerror}", hint="check the folder's permissions"
            ) from None
        yield stage


def _take_alone(stage: Path, held: ExitStack) -> None:
    """Make the folder if need be, and keep others out of it until `held` is left."""
    while True:
        if stage.exists() and not stage.is_dir():
            raise OutputError(
                f"{stage} is in the way, and edge-lfm did not make it", hint="move it away, or choose another name"
            )
        stage.mkdir(exist_ok=True)
        with ExitStack() as lock:
            try:
                descriptor = lock.enter_context(alone_in(stage, wait=False))
                same = os.path.samestat(os.fstat(descriptor), os.stat(stage))
            except BlockingIOError:
                raise OutputError(f"another edge-lfm is writing to {stage}", hint="wait for it, or end it") from None
            except FileNotFoundError:
                continue
            if same:  # else the one who held it before has renamed or removed it
                held.push(lock.pop_all())
                return


def _empty(stage: Path) -> None:
    """Our own working folder, without what an earlier run left; its list goes last."""
    for path in sorted(stage.iterdir(), key=lambda p: p.name == LIST):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def staged_folder(output: Path, resume: bool = False, force: bool = False, mark: str = "config.json") -> Iterator[Path]:
    """A folder to write into, which becomes `output` when the block ends without an exception.

    Arguments and errors as of `working_folder` and `check_output`.
    """
    output = Path(os.path.realpath(output))
    _take_back(output)
    with working_folder(output, resume, force) as stage:
        try:
            yield stage
            write_list(stage)
            sync_folder(stage)
            check_output(output, None, force, mark)  # again: it took a while
            _replace(stage, output)
        except OSError as error:
            hint = "make room and add --resume" if _leave(stage) else "check space and permissions"
            raise OutputError(f"{output} cannot be written: {error.strerror}", hint=hint) from None
        except BaseException as error:
            if isinstance(error, EdgeLfmError) and not isinstance(error, OutputError | DownloadError):
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
    """The stage under the output's name, at once; what was there before goes."""
    if not output.exists():
        stage.rename(output)
        sync_folder(output.parent)
        return
    with alone_in(output, wait=True):  # under the stage's name, another process would take it for a stage
        if exchange(stage, output):
            sync_folder(output.parent)
            shutil.rmtree(stage)
            return
    old = _old_of(output)
    if is_ours(old):
        shutil.rmtree(old)
    sys.stderr.write(f"edge-lfm: warning: this file system cannot exchange folders at once; {old.name} holds the old\n")
    output.rename(old)
    stage.rename(output)
    sync_folder(output.parent)
    shutil.rmtree(old)


def _old_of(output: Path) -> Path:
    return output.with_name(output.name + ".edge-lfm-old")


def _take_back(output: Path) -> None:
    """Where folders cannot be exchanged, a kill between two renames leaves the old one under another name."""
    old = _old_of(output)
    if not output.exists() and is_ours(old):
        with suppress(OSError):  # told when the output is made
            old.rename(output)
