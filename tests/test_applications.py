"""The applications of examples/ run as they stand, on the demo model or against a server of it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "applications"
ENVIRONMENTS = ROOT / "build" / "clients"
NOTEBOOK = """
import ast, asyncio, json, sys
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    if cell["cell_type"] == "code":
        code = compile("".join(cell["source"]), "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        if (waiting := eval(code, globals())) is not None:
            asyncio.run(waiting)
"""
"""Runs the cells of a notebook as its kernel would, top-level `await` included."""


def said_by(*arguments: str, python: str = sys.executable) -> str:
    done = subprocess.run([python, *arguments], capture_output=True, text=True, timeout=120, cwd=FOLDER)
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment_of(client: str) -> str:
    """The Python of a client of benchmarks/clients."""
    folder = ENVIRONMENTS / client
    if not (folder / ".complete").exists():
        pytest.skip(f"needs {client} in {folder} (python benchmarks/clients/run.py --install {client})")
    return str(folder / "bin/python")


def test_fastapi(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("fastapi") is None:
        pytest.skip("needs fastapi")
    from starlette.testclient import TestClient

    monkeypatch.syspath_prepend(FOLDER)
    with TestClient(importlib.import_module("fastapi_app").app) as client:
        answer = client.post("/ask", json={"question": "What is the capital of France?"})
        assert answer.text == "The capital of France is Paris."
        assert client.post("/ask", json={}).status_code == 422


def test_the_notebook() -> None:
    said = said_by("-P", "-W", "error", "-c", NOTEBOOK, "notebook.ipynb").splitlines()
    assert said[0] == "The capital of France is Paris." and said[1] == "Your name is Anna." and said[2] in ("yes", "no")


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads((FOLDER / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)


def test_home_automation(address: str) -> None:
    device, _, state = said_by("home_automation.py", "Turn on the kitchen light.", address).strip().partition(": ")
    assert device in ("kitchen light", "bedroom light", "heating", "door") and state in ("on", "off")


def test_an_editor(address: str, tmp_path: Path) -> None:
    program = tmp_path / "add.py"
    program.write_text("def add(a, b):\n    return \n\nprint(add(1, 2))\n", encoding="utf-8")
    assert said_by("editor.py", str(program), "2", address).strip()


def test_langchain(address: str) -> None:
    said = said_by("langchain_chain.py", "France", address, python=environment_of("langchain"))
    assert said == "The capital of France is Paris.\n"


def test_pydantic_ai(address: str) -> None:
    python = environment_of("pydantic-ai")
    assert said_by("pydantic_ai_typed.py", "Anna lives in Paris.", address, python=python).startswith("Person(name=")


@pytest.mark.parametrize("name", [path.name for path in sorted(FOLDER.glob("*.py")) if path.name != "fastapi_app.py"])
def test_without_arguments_an_application_says_how_it_is_called(name: str) -> None:
    clients = {"langchain_chain.py": "langchain", "pydantic_ai_typed.py": "pydantic-ai"}
    python = environment_of(clients[name]) if name in clients else sys.executable
    done = subprocess.run([python, name], capture_output=True, text=True, cwd=FOLDER, env=os.environ, timeout=120)
    assert done.returncode == 1 and f"python {name}" in done.stderr
