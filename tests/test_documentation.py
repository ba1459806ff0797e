"""The site of the documents: it can be built, no link is dead, it needs no network, and its programs run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, load_tool
from documented import TUTORIALS
from serving import serving

pytestmark = pytest.mark.slow

SITE = ROOT / "build/site"


def programs(document: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site() -> Path:
    """MkDocs ends with an error where a link or an anchor leads nowhere."""
    pytest.importorskip("mkdocs", reason="needs mkdocs-material")
    command = [sys.executable, str(ROOT / "tools/documentation.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return SITE


def test_the_site_has_every_document(site: Path) -> None:
    documents = [ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    assert [d for d in documents if not (site / d.relative_to(ROOT).with_suffix(".html")).exists()] == []
    assert "Quantize, then run" in (site / "index.html").read_text(encoding="utf-8")


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]*\ssrc=\"?(?:https?:)?//|<link[^>]*rel=\"?stylesheet[^>]*href=\"?https?:"
    )
    assert [str(page) for page in site.rglob("*.html") if loaded.search(page.read_text(encoding="utf-8"))] == []


def test_the_interface_has_every_public_name(site: Path) -> None:
    import edge_lfm

    page = (site / "docs/interface.html").read_text(encoding="utf-8")
    missing = [name for name in edge_lfm.__all__ if f'id="edge_lfm.{name}"' not in page]
    assert [name for name in missing if not re.search(rf'id="edge_lfm\.[\w.]+\.{name}"', page)] == []


def test_the_index_of_decisions() -> None:
    table = load_tool("documentation").decisions()
    rows = re.findall(r"^\| (\d+) \| \[(.+)\]\((\S+)\) \| (.+) \| (.+) \|$", table, re.MULTILINE)
    assert [row[2] for row in rows] == sorted(path.name for path in (ROOT / "docs/adr").glob("*.md"))
    states = {int(number): state for number, _, _, _, state in rows}
    assert "[ADR 11]" in states.pop(9) and set(states.values()) == {"accepted"}


PROGRAMS = [(page.stem, program) for page in TUTORIALS for program in programs(page)]


@pytest.mark.parametrize(("page", "program"), PROGRAMS, ids=[page for page, _ in PROGRAMS])
def test_programs_of_tutorials_run(page: str, program: str, demo: dict[str, Path], tmp_path: Path) -> None:
    with serving(str(demo["int4"])) as address:
        code = program.replace("http://127.0.0.1:8080", address)
        assert (code != program) == ("8080" in program)
        command = [sys.executable, "-P", "-c", code]
        clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        done = subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False, timeout=120
        )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_the_picture_shows_the_table_s_figures() -> None:
    tool = load_tool("speed_picture")
    assert set(tool.speeds()) >= {"pp512@0", "tg32@0"}
    assert tool.PICTURE.read_text(encoding="utf-8") == tool.picture(), "remake it: python tools/speed_picture.py"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
