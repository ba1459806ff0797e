"""Making prebuilt kernels: compile for a target, link a shared object, write its manifest and the C header.

Any linker for ELF will do: the objects need a few functions of the C library, which the process that loads them
has. Knows no kernels; what loads the result is `kernels/load/prebuilt.py`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from edge_lfm.devices.header import HEADER_NAME, header_text
from edge_lfm.devices.targets import Target
from edge_lfm.errors import EdgeLfmError, OutputError
from edge_lfm.kernels.load.library import object_code, source_hash
from edge_lfm.kernels.load.prebuilt import Manifest
from edge_lfm.kernels.spec.layout import LAYOUT_VERSION

_LINK = ("-shared", "--build-id=none", "-z", "noexecstack", "-z", "relro", "-z", "now")


def prebuild(target: Target, folder: Path) -> Manifest:
    """Write `<target>.so`, `<target>.json` and the header into a folder; earlier ones are replaced.

    Raises:
        EdgeLfmError: there is no linker.
        IsaError: the kernels cannot be compiled.
        OutputError: the folder cannot be written.
    """
    linker = find_linker(target.isa.machine)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".edge-lfm-") as work:
            shared = link(linker, object_code(target.isa), Path(work) / f"{target.name}.so")
            manifest = describe(target, shared.read_bytes())
            described = shared.with_suffix(".json")
            described.write_text(manifest.text(), encoding="utf-8")
            header = shared.with_name(HEADER_NAME)
            header.write_text(header_text(), encoding="utf-8")
            # The manifest last: with the SHA-256 in it, a mixture of two builds is never loaded.
            for made in (shared, header, described):
                os.replace(made, folder / made.name)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}", hint="choose another folder with -o") from None
    return manifest


def describe(target: Target, shared: bytes) -> Manifest:
    """The manifest of a target's shared object."""
    isa = target.isa
    return Manifest(
        target=target.name,
        isa=isa.name,
        machine=isa.machine,
        triple=isa.triple,
        cpu=isa.cpu,
        features=isa.features,
        requires=tuple(sorted(isa.requires)),
        layout=LAYOUT_VERSION,
        source=source_hash(),
        version=version("edge-lfm"),
        llvm=f"llvmlite {version('llvmlite')}",
        file=f"{target.name}.so",
        sha256=hashlib.sha256(shared).hexdigest(),
    )


def find_linker(machine: str) -> list[str]:
    """The command of a linker that makes shared objects for `machine`.

    Raises:
        EdgeLfmError: none is installed.
    """
    for name in ("ld.lld", f"{machine}-linux-gnu-ld"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "ld.lld"]
    raise EdgeLfmError(
        f"no linker for {machine} was found",
        hint=f"pip install ziglang, or: sudo apt install binutils-{machine.replace('_', '-')}-linux-gnu",
    )


def link(linker: list[str], code: bytes, shared: Path) -> Path:
    """An object file as the shared object `shared`."""
    source = shared.with_suffix(".o")
    source.write_bytes(code)
    command = [*linker, *_LINK, "-soname", shared.name, str(source), "-o", str(shared)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not shared.exists():
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise EdgeLfmError(f"{' '.join(linker)} could not link the kernels: {reason}", hint="pip install ziglang")
    return shared
