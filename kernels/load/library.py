"""The compiled kernels as a table of C functions: prebuilt, or built once per machine and cached; loaded without Numba.

Knows where machine code comes from; does not know what a kernel computes. Prebuilt kernels are looked for
where `EDGE_LFM_KERNELS` says, then in the package itself (a released wheel has them). The cache is keyed by
tier, package versions and the kernels' source; every file carries its own SHA-256, so a damaged one is
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
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from edge_lfm.errors import IsaError
from edge_lfm.kernels.load.prebuilt import Manifest, best_prebuilt, open_prebuilt
from edge_lfm.kernels.spec.entry import ENTRIES, Entry
from edge_lfm.kernels.spec.isa import Isa, find_isa, select_isa
from edge_lfm.paths import cache_folder

_KERNELS = Path(__file__).parents[1]
_PACKAGED = _KERNELS / "prebuilt"
_COMPILED = ("spec/layout.py", "spec/schemes.py", "spec/isa.py", "spec/entry.py", "lang/*.py", "ops/**/*.py")
"""What compiled code is made of. The NumPy definitions, the compiler and the thread team are not: editing those
recompiles nothing."""
_DIGEST_BYTES = 32
_loading = threading.Lock()


@dataclass(frozen=True)
class Kernels:
    """The entry points of one tier, callable with integers; `origin` tells where they come from, `keep` holds the code
    in memory."""

    isa: Isa
    origin: str
    table: dict[str, Callable[..., int]]
    keep: Any

    def __getattr__(self, name: str) -> Callable[..., int]:
        try:
            return self.table[name]
        except KeyError:
            raise AttributeError(f"no kernel entry point '{name}'") from None


@cache
def source_hash() -> str:
    """SHA-256 over the sources of compiled code, names included."""
    digest = hashlib.sha256()
    for path in sorted(source for pattern in _COMPILED for source in _KERNELS.glob(pattern)):
        digest.update(path.relative_to(_KERNELS).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def load_kernels(isa: Isa | None = None) -> Kernels:
    """The kernels of `isa` (default: the best tier of this processor): prebuilt, or compiled on first use.

    A compilation takes 15 to 80 s of two processors; it shows its progress on standard error.

    Raises:
        IsaError: the tier cannot run here; those of `EDGE_LFM_KERNELS` do not fit; they cannot be compiled.
    """
    with _loading:
        asked = os.environ.get("EDGE_LFM_KERNELS")
        if asked:
            tier = isa.name if isa else os.environ.get("EDGE_LFM_ISA")
            return _load_prebuilt(*best_prebuilt(Path(asked), source_hash(), tier))
        isa = isa or select_isa()
        with suppress(IsaError):  # of other processors, or older than the source: there is the compiler
            return _load_prebuilt(*best_prebuilt(_PACKAGED, source_hash(), isa.name))
        return _load(isa)


def kernels_are_ready() -> bool:
    """Whether this machine's kernels are prebuilt or in the cache already."""
    if os.environ.get("EDGE_LFM_KERNELS"):
        return True
    isa = select_isa()
    with suppress(IsaError):
        best_prebuilt(_PACKAGED, source_hash(), isa.name)
        return True
    path = _cached_path(isa)
    return path is not None and path.exists()


@cache
def _load_prebuilt(manifest: Manifest, path: Path) -> Kernels:
    library = open_prebuilt(manifest, path)
    table: dict[str, Callable[..., int]] = {}
    for entry in ENTRIES:
        table[entry.name] = _callable(entry, getattr(library, entry.symbol))
    return Kernels(find_isa(manifest.isa), f"prebuilt for {manifest.target}", table, library)


def _callable(entry: Entry, function: Any) -> Callable[..., int]:
    function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64] * len(entry.arguments)
    return cast(Callable[..., int], function)


@cache
def _load(isa: Isa) -> Kernels:
    return _link(isa, object_code(isa, f"compiling kernels for {isa.name}, once per machine"))


def object_code(isa: Isa, label: str = "") -> bytes:
    """An object file of the kernels, for this machine or another: from the cache, or compiled and kept there.

    label: of the bar on standard error while they are compiled; "": there is none.

    Raises:
        IsaError: as of `compile_object`.
    """
    path = _cached_path(isa)
    code = _read_checked(path) if path else None
    if code is None:
        code = compile_object(isa, _Bar(label)) if label else compile_object(isa)
        if path:
            _write_checked(path, code)
    return code


class _Bar:
    """A bar on standard error; a line where that is no terminal."""

    def __init__(self, label: str) -> None:
        self._label, self._live = label, sys.stderr is not None and sys.stderr.isatty()
        if sys.stderr is not None:
            print(f"{label} ...", end="" if self._live else "\n", file=sys.stderr, flush=True)

    def __call__(self, percent: int) -> None:
        if self._live:
            line = f"\r{self._label} [{'#' * (percent // 4):25}] {percent:3} %"
            print(line, end="\n" if percent == 100 else "", file=sys.stderr, flush=True)


def _cached_path(isa: Isa) -> Path | None:
    """The cache file of `isa`, or None when there is no folder that only this user can write to."""
    try:
        versions = "-".join(version(name) for name in ("numba", "llvmlite"))
    except PackageNotFoundError:
        return None
    key = hashlib.sha256(f"{isa.name}{isa.cpu}{isa.features}{versions}{source_hash()}".encode()).hexdigest()[:20]
    try:
        folder = cache_folder() / "kernels"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError:
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


def compile_object(isa: Isa, progress: Callable[[int], object] = lambda _percent: None) -> bytes:
    """An object file of the kernels, for this machine or another.

    The compiler runs in a process of its own: the runtime stays free of Numba and of its memory. `progress` is called
    with the percentage that is done.

    Raises:
        IsaError: Numba is not installed, or cannot compile them.
    """
    if find_spec("numba") is None or find_spec("llvmlite") is None:
        raise IsaError(
            f"there are no prebuilt kernels for {isa.name}, and Numba is not installed to compile them",
            hint="pip install numba, or set EDGE_LFM_KERNELS to a folder that edge-lfm compile made",
        )
    with tempfile.TemporaryDirectory(prefix="edge-lfm-") as folder:
        output = Path(folder) / "kernels.o"
        command = [sys.executable, "-P", "-m", "edge_lfm.kernels.build.compiler", "--isa", isa.name, "--cpu", isa.cpu]
        command += ["-o", str(output)]
        with tempfile.TemporaryFile("w+", dir=folder) as errors:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as compiler:
                assert compiler.stdout
                for line in compiler.stdout:
                    progress(int(line))
            errors.seek(0)
            complaints = errors.read().strip().splitlines()
        if compiler.returncode != 0 or not output.exists():
            reason = (complaints or [f"exit code {compiler.returncode}"])[-1]
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
    # JITLink places all sections in one piece. The older linker gives each a place of its own, and aborts the process
    # where two lie more than 2 GB apart, as in one that has mapped much: a worker of Ray.
    jit = llvm.create_lljit_compiler(machine, use_jit_link=True)
    builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
    for entry in ENTRIES:
        builder.export_symbol(entry.symbol)
    tracker = builder.link(jit, f"edge_lfm_{isa.name}")
    table: dict[str, Callable[..., int]] = {}
    for entry in ENTRIES:
        prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * len(entry.arguments))
        table[entry.name] = prototype(tracker[entry.symbol])
    return Kernels(isa, "compiled here", table, (jit, tracker))
