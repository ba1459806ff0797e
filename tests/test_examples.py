"""The examples run as they stand, on the demo model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"
SAID = {
    "embed.py": "Your name is Anna.",
    "events.py": "the model calls get_weather",
    "several_at_once.py": "The capital of France is Paris.",
    "structured.py": "{'name': ",
    "documents.py": "found: museum",
}
ARGUMENTS = {"documents.py": (".", "Who directs the museum?")}


def run(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-W", "error", str(EXAMPLES / name), *ARGUMENTS.get(name, ())]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example(name: str, tmp_path: Path) -> None:
    (tmp_path / "museum.txt").write_text("The museum has 70 rooms. Anna directs the museum.", encoding="utf-8")
    (tmp_path / "garden.txt").write_text("The garden is open all day.", encoding="utf-8")
    done = run(name, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() and SAID.get(name, "") in done.stdout


def test_the_second_run_remembers(tmp_path: Path) -> None:
    run("remember.py", tmp_path)
    again = run("remember.py", tmp_path)
    assert "Anna" in again.stdout and int(again.stderr.split()[0]) > 20
