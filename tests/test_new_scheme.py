"""Adding a weight scheme touches its own files and the table only: signs are added to a copy of the kernels."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

ROW = """
SIGNS_G64 = Scheme(8, "signs_g64", "signs", 4 * TILE_ROWS, 128, 0, columns=64)
SCHEMES[SIGNS_G64.name] = SIGNS_G64
"""


def test_a_scheme_is_a_row_and_its_files(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "demo_model", "prebuilt")
    for folder in ("edge_lfm", "kernels", "quantize", "devices"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=ignored)
    here = ROOT / "tests" / "new_scheme"
    shutil.copy(here / "definition.py", tmp_path / "kernels" / "spec" / "definitions" / "signs.py")
    shutil.copy(here / "kernels.py", tmp_path / "kernels" / "ops" / "schemes" / "signs.py")
    with (tmp_path / "kernels" / "spec" / "schemes.py").open("a", encoding="utf-8") as table:
        table.write(ROW)
    path = os.pathsep.join([str(tmp_path), str(ROOT / "tests")])
    settings = os.environ | {"PYTHONPATH": path, "EDGE_LFM_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-P", str(here / "check.py")]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


# `url.scheme` is another word.
ASKS = re.compile(
    r"\b(ISA|isa)\.name (==|!=|in|not in) |"
    r"\b(?<!url\.)scheme(\.id|\.name|\.family)? (==|!=|is|is not|in|not in) [A-Z(\"]"
)
LOOPS = re.compile(r"\bfor \w+ in ")
OWN = {"kernels/spec/isa.py", "kernels/spec/schemes.py", "kernels/ops/schemes/__init__.py"}


def test_tiers_and_schemes_are_told_apart_in_their_own_files() -> None:
    """Everybody else reads the fields of `Isa` and `Scheme`."""
    folders = ("kernels", "quantize", "devices", "edge_lfm")
    paths = {path.resolve() for folder in folders for path in (ROOT / folder).rglob("*.py")}
    lines = {
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in paths
        if str(path.relative_to(ROOT)) not in OWN
        for line in path.read_text(encoding="utf-8").splitlines()
        if ASKS.search(LOOPS.sub("", line))
    }
    assert lines == set()


def test_halves_with_a_sign_are_refused() -> None:
    """On tiers that start sums, two blocks of 16 columns are added up in a way that levels with a sign do not fit."""
    code = """
from types import SimpleNamespace
from edge_lfm.kernels.ops.integer_tiles import halves_step
block = SimpleNamespace(columns=(0,), scale=None, shift=None, offset=None)
halves_step(SimpleNamespace(levels="signed", zero_point=0, scheme=SimpleNamespace(name="odd")), (block, block), 4, 0, 0)
"""
    environment = os.environ | {"EDGE_LFM_BUILD_ISA": "avx512vnni", "NUMBA_OPT": "0"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stderr.strip().splitlines()[-1] == (
        "ValueError: odd: halves are of levels without a sign and without an offset"
    )
