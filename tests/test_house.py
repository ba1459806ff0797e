"""The house itself: one tree however it is installed, rooms of a readable size, references that lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import grimp
import pytest
import yaml
from conftest import LONGEST, ROOT

SOURCES = ("kernels", "quantize", "devices")
LINKED = [ROOT / "edge_lfm" / name for name in SOURCES]
MAX_FILE_LINES, MAX_FUNCTION_LINES, MEDIAN_LINES = 500, 60, 200


def modules(root: Path = ROOT) -> list[Path]:
    """The package's source files, each once, by their paths in the checkout."""
    inner = [p for p in (root / "edge_lfm").rglob("*.py") if p.relative_to(root).parts[1] not in SOURCES]
    return sorted([*inner, *(p for name in SOURCES for p in (root / name).rglob("*.py"))])


def test_files_and_functions_are_of_a_readable_size() -> None:
    lengths = {path: path.read_text(encoding="utf-8").count("\n") for path in modules()}
    assert statistics.median(lengths.values()) < MEDIAN_LINES
    assert {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > MAX_FILE_LINES} == {}
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in lengths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_what_benchmarks_and_tools_import_is_there() -> None:
    """They run for figures only, and so nobody sees that a name has moved."""
    lost = []
    for path in sorted(
        file for folder in ("benchmarks", "tools", "examples") for file in (ROOT / folder).rglob("*.py")
    ):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "edge_lfm":
                module = importlib.import_module(node.module or "")
                names = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                lost += [(path.name, name) for name in names if not is_module(module, name)]
    assert lost == []


def is_module(package: ModuleType, name: str) -> bool:
    return hasattr(package, "__path__") and importlib.util.find_spec(f"{package.__name__}.{name}") is not None


def test_every_module_says_what_it_is_for() -> None:
    silent = [p for p in modules() if not (ast.get_docstring(ast.parse(p.read_text(encoding="utf-8"))) or "").strip()]
    assert [str(p.relative_to(ROOT)) for p in silent if p.name != "__init__.py"] == []


def test_a_checkout_imports_itself_from_its_root(tmp_path: Path) -> None:
    """Whatever is installed: a second checkout never mixes with the first."""
    second = tmp_path / "second"
    for name in ("edge_lfm", *SOURCES):
        shutil.copytree(ROOT / name, second / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import edge_lfm, edge_lfm.kernels.spec.layout as l, edge_lfm.quantize as q, edge_lfm.devices as d"
    code += "; print(edge_lfm.__file__, l.__file__, q.__file__, d.__file__, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=second, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(second) for line in done.stdout.split()), done.stdout


@pytest.mark.slow
def test_a_wheel_holds_the_modules_of_the_checkout(tmp_path: Path) -> None:
    shutil.rmtree(ROOT / "build/lib", ignore_errors=True)  # what an earlier build left would be packed, too
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=250)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        packed = {name for name in file.namelist() if name.endswith(".py")}
    here = {path.relative_to(ROOT).as_posix() for path in modules()}
    assert packed == {name if name.startswith("edge_lfm/") else f"edge_lfm/{name}" for name in here}


def test_no_imports_go_in_a_circle() -> None:
    """Those for type checkers and inside functions included: modules that import nothing, or that nothing imports, are
    taken away until none is left."""
    graph = grimp.build_graph("edge_lfm", cache_dir=None)
    left = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    while True:
        imported = set().union(*left.values())
        ends = [module for module, others in left.items() if module not in imported or not others & left.keys()]
        if not ends:
            break
        for module in ends:
            del left[module]
    assert {module: sorted(others & left.keys()) for module, others in left.items()} == {}


def test_the_links_are_relative() -> None:
    assert [path.readlink() for path in LINKED] == [Path("..") / name for name in SOURCES]


def test_the_hooks_are_what_make_check_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert recipe
    commands = [line.strip().removeprefix("$(BIN)/").removesuffix(" .") for line in recipe[1].splitlines()]
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in hooks] == commands


def test_the_longest_files_of_tests_are_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).exists()] == []


def test_the_command_lines_document_is_the_parsers_help() -> None:
    command = [sys.executable, str(ROOT / "tools/cli_reference.py")]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    remake = "python tools/cli_reference.py > docs/cli.md"
    assert (ROOT / "docs/cli.md").read_text(encoding="utf-8") == made, f"remake it: {remake}"


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["import_graph", "model_table"])
def test_what_a_tool_made_is_what_stands_in_the_document(tool: str) -> None:
    code = f"import {tool} as t; d = t.DOCUMENT.read_text(encoding='utf-8'); assert t.placed(d) == d"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tools", env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0, f"remake it: python tools/{tool}.py"


DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tools").rglob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8"))
    here = [link.partition("#")[0] for link in links if "://" not in link and not link.startswith("#")]
    assert [link for link in here if not (document.parent / link).exists()] == []


_PATH = re.compile(r"`((?:kernels|quantize|devices|edge_lfm|tests|tools|benchmarks|docs|examples)/[\w./-]+\.\w+)`")


def test_paths_that_are_named_exist() -> None:
    """In documents, comments and docstrings."""
    places = [*DOCUMENTS, *modules(), *(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    dead = {
        f"{place.relative_to(ROOT)}: {path}"
        for place in places
        if place.name != "CHANGELOG.md" and "adr" not in place.parts  # what was, is named as it was
        for path in _PATH.findall(place.read_text(encoding="utf-8"))
        if "NAME" not in path and not (ROOT / path).exists() and not (ROOT / "edge_lfm" / path).exists()
    }
    assert dead == set()


def test_decisions_are_numbered() -> None:
    """Each ADR has a number of its own, which its title says, and none is left out."""
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(path.name[:4]) for path in decisions] == list(range(1, len(decisions) + 1))
    for number, path in enumerate(decisions, 1):
        assert path.read_text(encoding="utf-8").startswith(f"# {number}. ")


def test_every_promise_names_tests_that_there_are() -> None:
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.glob("tests/*.py")}
    known = {name for source in sources.values() for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)}
    known |= {path for path, source in sources.items() if re.search(r"^def test_", source, re.MULTILINE)}
    known |= {
        f"make {target}" for target in re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    }
    rows = re.findall(r"^\| (?!promise)(\w.*) \| (.*) \|$", (ROOT / "SECURITY.md").read_text("utf-8"), re.MULTILINE)
    named = {promise: set(re.findall(r"`([^`]+)`", tests)) for promise, tests in rows}
    assert named and all(named.values())
    assert {promise: tests - known for promise, tests in named.items() if tests - known} == {}
