"""The wheel as a user gets it: installed by pip in new environments, and asked a question there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from edge_lfm.kernels.spec.isa import select_isa
from release.checklist import ReleaseError, call

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
_QUESTION, _ANSWER = "What is the capital of France?", "Paris"
_BOARD = "cortex-a76"


def install_everywhere(root: Path, work: Path, out: Path) -> str:
    """The wheel answers on every Python, with its own kernels.

    Raises:
        ReleaseError: a Python is not on this machine, or something else happens there.
    """
    folder = work / "pythons"
    wheel = str(next(out.glob("*.whl")))
    environment = os.environ | {"PYTHON": sys.executable}
    interpreters = call("sh", str(root / "tools/pythons.sh"), str(folder), wheel, env=environment).split()
    missing = [name for name in PYTHONS if not any(f"python{name}/" in path for path in interpreters)]
    for interpreter in interpreters:
        _ask([interpreter, "-m", "edge_lfm"], work, select_isa().name)
    if missing:
        raise ReleaseError(
            f"this machine has no Python {', '.join(missing)}: install it, or run as root with debootstrap"
        )
    return f"pip install, an answer and prebuilt kernels on Python {', '.join(PYTHONS)}"


def install_on_arm(root: Path, work: Path, out: Path) -> str:
    """The same on an emulated Cortex-A76, in an arm64 Debian (needs root, debootstrap and qemu-user).

    Raises:
        ReleaseError: as of `install_everywhere`.
    """
    board = root / "build/arm64"
    call("sh", str(root / "tools/arm_root.sh"), str(board))
    there = board / "opt/release"
    call("rm", "-rf", str(there))
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in range(17, 37)]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--only-binary=:all:",
        "--python-version=3.11",
        *platforms,
    ]
    call(*pip, "--platform=manylinux2014_aarch64", "--target", str(there), str(next(out.glob("*.whl"))))
    inside = 'mount -t proc proc "$0/proc" && exec env -i "$@"'
    settings = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "PYTHONPATH=/opt/release", f"QEMU_CPU={_BOARD}"]
    command = ["unshare", "--mount", "sh", "-c", inside, str(board), *settings, "chroot", str(board)]
    _ask([*command, "python3", "-m", "edge_lfm"], work, "dotprod")
    return f"pip install, an answer and prebuilt kernels on an emulated {_BOARD}, Python 3.11"


def _ask(program: list[str], work: Path, tier: str) -> None:
    """Raises ReleaseError if the program does not answer, or compiles kernels."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("EDGE_LFM", "PYTHON", "VIRTUAL_ENV"))}
    clean |= {"EDGE_LFM_CACHE": str(work / "cache")}
    kernels = f"{tier}, prebuilt for {tier}"
    command = [*program, "run", "--max-tokens", "16", _QUESTION]
    done = subprocess.run(command, cwd=work, env=clean, capture_output=True, text=True, check=False)
    if _ANSWER not in done.stdout:
        raise ReleaseError(f"{program[0]} answers '{done.stdout.strip()}': {done.stderr.strip()}")
    findings = json.loads(call(*program, "doctor", "--json", cwd=work, env=clean))
    found = next(finding["value"] for finding in findings if finding["what"] == "kernels")
    if found != kernels:
        raise ReleaseError(f"{program[0]}: kernels '{found}', not '{kernels}'")
