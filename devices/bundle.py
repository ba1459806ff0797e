"""A bundle: a folder or a tar file with all that a board needs, installed there by `sh install.sh` without a network.

    install.sh  SHA256SUMS  LICENSES.txt  edge-lfm.service  selftest.py  expected.json
    kernels/    the shared object, its manifest, the C header
    wheels/     edge-lfm, NumPy, tokenizers and what the server needs
    model/      a packed model, if one was named

Knows files; the wheels come from `wheels.py`, the kernels from `prebuild.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

from edge_lfm.devices.licences import licence_list
from edge_lfm.devices.prebuild import prebuild
from edge_lfm.devices.targets import Target
from edge_lfm.devices.wheels import check_python, download_wheels, pack_own_wheel
from edge_lfm.errors import OutputError

Advance = Callable[[int], object]
_BOARD_FILES = ("install.sh", "edge-lfm.service", "selftest.py")
_AT_A_TIME = 4 << 20


@dataclass(frozen=True)
class Bundle:
    """What was made. Sizes in bytes, as they lie in the bundle."""

    path: str
    target: str
    python: str
    kernel_bytes: int
    wheel_bytes: int
    model_bytes: int
    wheels: tuple[str, ...]


def make_bundle(
    target: Target,
    output: Path,
    python: str,
    model: Path | None,
    expected: Sequence[Mapping[str, Any]],
    say: Callable[[str], object],
    bar: Callable[[int], Advance],
) -> Bundle:
    """Make a bundle at `output`: a tar file if it is called so, else a folder. It appears whole or not at all.

    Args:
        target: what the kernels are compiled for.
        python: the board's version of Python, like 3.11.
        model: the folder of a packed model, or None.
        expected: what the self-test compares with: prompts and the token ids of their greedy answers.
        say: called with a line before each part.
        bar: called with the bytes to be copied; what it returns is called with each part of them.

    Raises:
        OutputError: the output exists or cannot be written.
        EdgeLfmError: a wheel, a linker or a compiler is missing.
    """
    check_python(python)
    output = Path(os.path.abspath(output))
    if output.exists():
        raise OutputError(f"{output} exists", hint="choose another -o, or remove it")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as work:
            stage = Path(work) / "edge-lfm"
            _write_parts(stage, target, python, expected, say)
            bundle = _describe(stage, output, target, python, model)
            say("writing the bundle ...")
            advance = bar(bundle.model_bytes + bundle.wheel_bytes)
            if output.suffix == ".tar":
                made = _write_tar(stage, model, Path(work) / "bundle.tar", advance)
            else:
                made = _write_folder(stage, model, advance)
            os.replace(made, output)
    except OSError as error:
        raise OutputError(f"{output}: {error.strerror or error}", hint="choose another place with -o") from None
    return bundle


def _write_parts(
    stage: Path, target: Target, python: str, expected: Sequence[Mapping[str, Any]], say: Callable[[str], object]
) -> None:
    """All but the model, and the checksums of it."""
    wheels = stage / "wheels"
    wheels.mkdir(parents=True)
    say(f"fetching packages for Python {python} on {target.isa.machine} ...")
    download_wheels(target.isa.machine, python, wheels)
    pack_own_wheel(wheels)
    (stage / "LICENSES.txt").write_text(licence_list(sorted(wheels.glob("*.whl"))), encoding="utf-8")
    say(f"compiling the kernels for {target.name} ...")
    prebuild(target, stage / "kernels")
    for name in _BOARD_FILES:
        text = files("edge_lfm.devices").joinpath("board", name).read_text(encoding="utf-8")
        text = text.replace("@MACHINE@", target.isa.machine).replace("@PYTHON@", python)
        (stage / name).write_text(text, encoding="utf-8")
    (stage / "expected.json").write_text(json.dumps(list(expected)) + "\n", encoding="utf-8")
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(stage).as_posix()}\n"
        for file in sorted(stage.rglob("*"))
        if file.is_file()
    ]
    (stage / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def _describe(stage: Path, output: Path, target: Target, python: str, model: Path | None) -> Bundle:
    return Bundle(
        path=str(output),
        target=target.name,
        python=python,
        kernel_bytes=_size(stage / "kernels"),
        wheel_bytes=_size(stage / "wheels"),
        model_bytes=_size(model) if model else 0,
        wheels=tuple(sorted(file.name for file in (stage / "wheels").iterdir())),
    )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _write_folder(stage: Path, model: Path | None, advance: Advance) -> Path:
    if model:
        for file in sorted(model.rglob("*")):
            if file.is_file():
                copy = stage / "model" / file.relative_to(model)
                copy.parent.mkdir(parents=True, exist_ok=True)
                with file.open("rb") as source, copy.open("wb") as sink:
                    while part := source.read(_AT_A_TIME):
                        sink.write(part)
                        advance(len(part))
    return stage


def _write_tar(stage: Path, model: Path | None, path: Path, advance: Advance) -> Path:
    """The model goes into the tar file straight away: it is never on the disk a third time."""
    with tarfile.open(path, "w") as tar:
        for root, prefix in ((stage, "edge-lfm"), *(((model, "edge-lfm/model"),) if model else ())):
            for file in sorted(root.rglob("*")):
                if file.is_file():
                    entry = tar.gettarinfo(file, f"{prefix}/{file.relative_to(root).as_posix()}")
                    entry.uid = entry.gid = 0
                    entry.uname = entry.gname = ""
                    with file.open("rb") as source:
                        tar.addfile(entry, _Counted(source, advance))  # type: ignore[arg-type]
    return path


class _Counted:
    """A file that tells how much of it has been read."""

    def __init__(self, file: IO[bytes], advance: Advance) -> None:
        self._file, self._advance = file, advance

    def read(self, count: int) -> bytes:
        part = self._file.read(count)
        self._advance(len(part))
        return part
