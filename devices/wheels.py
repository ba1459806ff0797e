"""Wheels for a board: what edge-lfm needs there, resolved by pip for its processor and Python, and edge-lfm itself.

Numba and llvmlite are left out: kernels are prebuilt. So is what `tokenizers` asks for to download from a hub.
Knows no bundle.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from importlib.metadata import distribution, requires
from pathlib import Path

from edge_lfm.errors import EdgeLfmError, UsageError

_COMPILERS = ("numba", "llvmlite")
_ALONE = ("tokenizers",)  # asks for huggingface_hub and twenty packages more, none of which is imported
_EXTRAS = ("server", "grammar")
# In a checkout the last three lie beside edge_lfm, not in it.
_FLOORS = ("edge_lfm", "edge_lfm.devices", "edge_lfm.kernels", "edge_lfm.quantize")
_NEWEST_GLIBC = 35
"""Of Ubuntu 22.04, which Jetson boards have; Debian 12 has 36."""


def check_python(version: str) -> None:
    """Raises UsageError where `version` is not one like 3.11 that edge-lfm runs on."""
    match = re.fullmatch(r"3\.(\d+)", version)
    if not match or int(match[1]) < 11:
        raise UsageError(f"Python {version}", hint="edge-lfm needs 3.11 or newer, given like 3.13")


def download_wheels(machine: str, python: str, folder: Path) -> None:
    """Put the wheels of everything that edge-lfm needs at run time into a folder.

    Args:
        machine: as platform.machine() calls the board's.
        python: the board's version, like 3.11.

    Raises:
        EdgeLfmError: pip is missing, or a package has no wheel for the board.
    """
    needed = runtime_requirements()
    alone = [line for line in needed if _name(line) in _ALONE]
    _pip_download([line for line in needed if line not in alone], (), machine, python, folder)
    _pip_download(alone, ("--no-deps",), machine, python, folder)


def runtime_requirements() -> list[str]:
    """What edge-lfm's metadata asks for, less the compilers, with the server's and the grammars' packages."""
    requirements = []
    for line in requires("edge-lfm") or []:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        if _name(requirement) not in _COMPILERS and (extra is None or extra[1] in _EXTRAS):
            requirements.append(requirement.strip())
    return requirements


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower()


def _pip_download(what: list[str], more: tuple[str, ...], machine: str, python: str, folder: Path) -> None:
    if importlib.util.find_spec("pip") is None:
        raise EdgeLfmError("pip is needed to fetch the board's packages", hint="python -m ensurepip")
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in range(17, _NEWEST_GLIBC + 1)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *more]
    command += ["--only-binary=:all:", "--python-version", python, f"--platform=manylinux2014_{machine}", *platforms]
    done = subprocess.run([*command, "--dest", str(folder), *what], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    missing = re.search(r"No matching distribution found for (\S+)", done.stderr)
    if missing:
        raise EdgeLfmError(
            f"there is no wheel of {missing[1]} for Python {python} on {machine}",
            hint="choose another Python that the board has with --python",
        )
    reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
    raise EdgeLfmError(f"pip could not fetch the board's packages: {(reason or ['no reason given'])[0]}")


def pack_own_wheel(folder: Path) -> Path:
    """This edge-lfm as a wheel, from the files that are running, less kernels that are prebuilt in them."""
    own = distribution("edge-lfm")
    path = folder / f"edge_lfm-{own.version}-py3-none-any.whl"
    info = f"edge_lfm-{own.version}.dist-info"
    names: dict[str, Path] = {}
    for floor in _FLOORS:
        spec = importlib.util.find_spec(floor)
        assert spec and spec.submodule_search_locations
        root, prefix = Path(spec.submodule_search_locations[0]), floor.replace(".", "/")
        for file in sorted(root.rglob("*")):
            if file.is_file() and not {"__pycache__", "prebuilt"} & set(file.relative_to(root).parts):
                names[f"{prefix}/{file.relative_to(root).as_posix()}"] = file
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, file in names.items():
            wheel.write(file, name)
        # A checkout that is installed in place may have its metadata in edge_lfm.egg-info.
        wheel.writestr(f"{info}/METADATA", own.read_text("METADATA") or own.read_text("PKG-INFO") or "")
        if licence := own.read_text("licenses/LICENSE"):
            wheel.writestr(f"{info}/licenses/LICENSE", licence)
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: edge-lfm\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    return path
