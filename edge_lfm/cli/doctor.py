"""`edge-lfm doctor`: whether everything is as it should be, and what to do where it is not."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edge_lfm.cli import doctor_facts as facts
from edge_lfm.cli.arguments import gigabytes, print_json
from edge_lfm.errors import EdgeLfmError, install_line
from edge_lfm.kernels.load.library import kernels_are_ready, load_kernels
from edge_lfm.machine.memory import available_memory
from edge_lfm.machine.processors import choose_threads, cpu_quota, physical_cores
from edge_lfm.paths import cache_folder
from edge_lfm.version import VERSION

_EXTRAS = {"server": ("starlette", "uvicorn", "msgspec", "prometheus_client", "websockets"), "grammar": ("llguidance",)}
_LITTLE_MEMORY = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line: ok, or a warning with its remedy, or an error that keeps models from running."""

    what: str
    state: str
    value: str
    remedy: str = ""


def run(args: argparse.Namespace) -> None:
    findings = list(examine())
    if args.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = {"ok": "ok  ", "warning": "warn", "error": "FAIL"}[finding.state]
            print(
                f"{mark} {finding.what:12} {finding.value}"
                + (f"\n{'':17} -> {finding.remedy}" if finding.remedy else "")
            )
    if any(finding.state == "error" for finding in findings):
        raise EdgeLfmError("models cannot run here as it is", hint="see the lines marked FAIL")


def examine() -> Iterator[Finding]:
    """Everything that is looked at, in order."""
    packages = ", ".join(f"{name} {_version(name)}" for name in ("numpy", "numba", "llvmlite", "tokenizers"))
    yield Finding("version", "ok", f"edge-lfm {VERSION}, Python {platform.python_version()}, {packages}")
    if sys.maxsize < 2**32:
        yield Finding("system", "error", "a 32-bit Python", "install a 64-bit operating system")
    else:
        yield Finding("system", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Finding("processor", "ok", facts.processor())
    yield _kernels()
    yield Finding("sources", "ok", facts.sources())
    yield _cache()
    yield Finding("folders", "ok", facts.folders())
    yield _threads()
    yield _memory()
    yield Finding("limits", "ok", facts.limits())
    yield Finding("environment", "ok", facts.environment(os.environ))
    yield Finding("packages", "ok", facts.packages())
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if missing:
            yield Finding(extra, "warning", f"{', '.join(missing)} not installed", install_line(extra))
        else:
            yield Finding(extra, "ok", "installed")


def _kernels() -> Finding:
    try:
        ready = kernels_are_ready()
        kernels = load_kernels()
    except EdgeLfmError as error:
        return Finding("kernels", "error", error.message, error.hint)
    value = f"{kernels.isa.name}, {kernels.origin}{'' if ready else ' just now'}"
    if kernels.isa.is_fallback:
        return Finding("kernels", "warning", value, "this processor has no integer dot product: prefill is slow")
    if kernels.isa.has_byte_tiles:
        value += "; its tiles are proven by emulation, their speed was never measured"
    return Finding("kernels", "ok", value)


def _cache() -> Finding:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("cache", "warning", f"{folder}: {error.strerror}", "set EDGE_LFM_CACHE to a folder of yours")
    if not os.access(folder, os.W_OK):
        return Finding("cache", "warning", f"{folder} cannot be written", "set EDGE_LFM_CACHE to a folder of yours")
    return Finding("cache", "ok", f"{folder}, {gigabytes(free)} free")


def _threads() -> Finding:
    try:
        count = choose_threads()
    except EdgeLfmError as error:
        return Finding("threads", "error", error.message, error.hint)
    quota, cores = cpu_quota(), physical_cores()
    value = f"{count} of {cores} performance cores"
    if quota is not None and quota < cores:
        return Finding("threads", "warning", f"{value}, quota {quota:g}", "raise the container's CPU limit")
    return Finding("threads", "ok", value)


def _memory() -> Finding:
    available, page = available_memory(), os.sysconf("SC_PAGE_SIZE") // 1024
    value = f"{gigabytes(available)} available, pages of {page} KiB"
    if available < _LITTLE_MEMORY:
        return Finding("memory", "warning", value, "end other programs, or use a small model: edge-lfm fit")
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if huge.exists() and "[never]" in huge.read_text(encoding="ascii"):
        return Finding("memory", "warning", f"{value}, no large pages", f"echo madvise | sudo tee {huge}")
    return Finding("memory", "ok", value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
