"""The compiled kernels as a table of C functions: built once per machine, cached, loaded without Numba.

Knows where machine code comes from; does not know what a kernel computes. The cache is keyed by tier,
package versions and the kernels' source; every file carries its own SHA-256, so a damaged one is
rebuilt and never run, and a folder that others may write to is never used.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_lfm.errors import IsaError
from edge_lfm.kernels.entry import ENTRIES
from edge_lfm.kernels.isa import Isa, select_isa

_DIGEST_BYTES = 32
_loading = threading.Lock()


@dataclass(frozen=True)
class Kernels:
    """The entry points of one tier, callable with integers; `keep` holds the code in memory."""

    isa: Isa
    table: dict[str, Callable[..., int]]
    keep: Any

    def __getattr__(self, name: str) -> Callable[..., int]:
        try:
            return self.table[name]
        except KeyError:
            raise AttributeError(f"no kernel entry point '{name}'") from None


def cache_folder() -> Path:
    """Where this user's caches live: `EDGE_LFM_CACHE`, else `$XDG_CACHE_HOME/edge-lfm`, else `~/.cache/edge-lfm`."""
    explicit = os.environ.get("EDGE_LFM_CACHE")
    if explicit:
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "edge-lfm" if base else Path.home() / ".cache" / "edge-lfm"


@cache
def source_hash() -> str:
    """SHA-256 over the kernels' sources, names included."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def load_kernels(isa: Isa | None = None, announce: Callable[[str], None] | None = None) -> Kernels:
    """The kernels of `isa` (default: the best tier of this processor), compiled on first use.

    Args:
        isa: the tier.
        announce: called with one line before a compilation, which takes some seconds.

    Raises:
        IsaError: the tier cannot run here, or its kernels cannot be compiled.
    """
    with _loading:
        return _load(isa or select_isa(), announce or _announce)


@cache
def _load(isa: Isa, announce: Callable[[str], None]) -> Kernels:
    path = _cached_path(isa)
    code = _read_checked(path) if path else None
    if code is None:
        announce(f"compiling kernels for {isa.name} (once per machine, about 15 s) ...")
        code = _compile(isa)
        if path:
            _write_checked(path, code)
    return _link(isa, code)


def kernels_are_compiled() -> bool:
    """Whether this machine's kernels are in the cache already."""
    path = _cached_path(select_isa())
    return path is not None and path.exists()


def _announce(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _cached_path(isa: Isa) -> Path | None:
    """The cache file of `isa`, or None when there is no folder that only this user can write to."""
    versions = "-".join(version(name) for name in ("numba", "llvmlite"))
    key = hashlib.sha256(f"{isa.name}{isa.cpu}{isa.features}{versions}{source_hash()}".encode()).hexdigest()[:20]
    try:
        folder = cache_folder() / "kernels"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: no home directory
        return None
    private = status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder / f"{isa.name}-{key}.o" if private else None


def _read_checked(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    code = content[_DIGEST_BYTES:]
    return code if hashlib.sha256(code).digest() == content[:_DIGEST_BYTES] else None


def _write_checked(path: Path, code: bytes) -> None:
    """Write by rename, so that a reader never sees half a file; a full or read-only disk is no error."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(code).digest() + code)
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
    except OSError:
        return


def _compile(isa: Isa) -> bytes:
    """Run the compiler in a process of its own: the runtime stays free of Numba and of its memory."""
    with tempfile.TemporaryDirectory(prefix="edge-lfm-") as folder:
        output = Path(folder) / "kernels.o"
        command = [sys.executable, "-P", "-m", "edge_lfm.kernels.compiler", "--isa", isa.name, "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not output.exists():
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise IsaError(
                f"the kernels for {isa.name} could not be compiled: {reason}",
                hint=f"see all of it with: {' '.join(command[:-1])} kernels.o",
            )
        return output.read_bytes()


def _link(isa: Isa, code: bytes) -> Kernels:
    """Place an object file in memory and look up its entry points."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    jit = llvm.create_lljit_compiler(machine)
    builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
    for entry in ENTRIES:
        builder.export_symbol(entry.symbol)
    tracker = builder.link(jit, f"edge_lfm_{isa.name}")
    table: dict[str, Callable[..., int]] = {}
    for entry in ENTRIES:
        prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * entry.arity)
        table[entry.name] = prototype(tracker[entry.symbol])
    return Kernels(isa, table, (jit, tracker))
