"""Building twice from the commit alone, in two folders with caches of their own: both must give the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

from edge_lfm.devices.prebuild import find_linker
from release.checklist import ReleaseError, call
from release.tree import commit_seconds, project_version

TIERS = ("portable", "ssse3", "avx2", "avxvnni", "avx512vnni", "amx", "neon", "dotprod", "i8mm")


def build_twice(root: Path, work: Path, out: Path) -> str:
    """The wheel with kernels of all tiers and the source archive, in `out`, if a second build gives the same.

    Raises:
        ReleaseError: a file of the two builds differs.
    """
    for name in ("first", "second"):
        build_once(root, work / name)
    first, second = (checksums(work / name / "made") for name in ("first", "second"))
    different = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    if different:
        raise ReleaseError(f"two builds differ in {', '.join(different)}: compare {work}/first and {work}/second")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(work / "first" / "made", out)
    sizes = ", ".join(f"{name} {(out / name).stat().st_size / 1e6:.2f} MB" for name in first)
    return f"the same twice: {sizes}"


def build_once(root: Path, work: Path) -> None:
    """What is released, in `work`/made."""
    shutil.rmtree(work, ignore_errors=True)
    made, source = work / "made", work / "source"
    made.mkdir(parents=True)
    source.mkdir()
    name = f"edge-lfm-{project_version(root)}"
    archive = made / f"{name}-source.tar.gz"
    call("git", "-C", str(root), "archive", "--format=tar.gz", f"--prefix={name}/", "-o", str(archive), "HEAD")
    with tarfile.open(archive) as file:
        file.extractall(source, filter="tar")
    build_wheel(source / name, made, work / "cache", commit_seconds(root))
    with_what = {package: version(package) for package in ("numba", "llvmlite", "numpy", "build")}
    with_what |= {"python": platform.python_version(), "linker": call(*find_linker("x86_64"), "--version").strip()}
    (made / f"{name}-builder.json").write_text(json.dumps(with_what, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def build_wheel(source: Path, made: Path, cache: Path, seconds: int) -> None:
    """The wheel of the sources in a folder, its kernels compiled by them with an empty cache."""
    # Owner-only and world-readable files give other bytes in a wheel.
    for path in source.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    environment = os.environ | {"EDGE_LFM_CACHE": str(cache), "PYTHONPATH": str(source)}
    compiler = [sys.executable, "-m", "edge_lfm.cli.main", "compile", "-o", "kernels/prebuilt", "--target", *TIERS]
    call(*compiler, cwd=source, env=environment)
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(seconds)}
    previous = os.umask(0o022)
    try:
        call(sys.executable, "-m", "build", "--wheel", "--outdir", str(made), str(source), env=environment)
    finally:
        os.umask(previous)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def write_sums(out: Path, key: Path | None) -> str:
    """SHA256SUMS of a release; with a key of OpenSSH, SHA256SUMS.sig too."""
    for old in ("SHA256SUMS", "SHA256SUMS.sig"):
        (out / old).unlink(missing_ok=True)
    sums = checksums(out)
    (out / "SHA256SUMS").write_text("".join(f"{value}  {name}\n" for name, value in sums.items()), encoding="ascii")
    if key is None:
        return f"{len(sums)} files, not signed: no KEY was given"
    # Not captured: a key with a passphrase asks for it on the terminal.
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", "edge-lfm", str(out / "SHA256SUMS")]
    if subprocess.run(command, check=False).returncode != 0:
        raise ReleaseError(f"ssh-keygen could not sign with {key}")
    return f"{len(sums)} files, signed with {key.name}"
