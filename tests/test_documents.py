"""Every command line of the documents and of --help runs.

In the Pythons that `make test-pythons` finds one line of each verb runs, as they share all code behind the parser, and
the parser reads every line, as that is what differs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documented import CANNOT_RUN, documented_lines, documented_outputs, lay_out, make_originals, with_stand_ins
from hub import Hub

from edge_lfm.cli.parsing import parse
from edge_lfm.demo import demo_checkpoint

pytestmark = pytest.mark.slow

PYTHONS = [sys.executable, *os.environ.get("EDGE_LFM_PYTHONS", "").split()]
RUNNABLE = [line for line in documented_lines() if not line.startswith(tuple(CANNOT_RUN))]
ONE_OF_EACH_VERB = list({line.partition("edge-lfm ")[2].split()[0]: line for line in reversed(RUNNABLE)}.values())
RUNS = [
    *((sys.executable, line) for line in RUNNABLE),
    *((python, line) for python in PYTHONS[1:] for line in ONE_OF_EACH_VERB),
]
ORDERS = [
    ["run", "M", "--ram", "4G", "P"],
    ["run", "M", "P", "--ram", "4G"],
    ["run", "--ram", "4G", "M", "P"],
    ["run", "M", "--ram", "4G", "-n", "3", "P", "--json"],
    ["run", "M", "--ram", "4G", "--", "P"],
]


def _name_of(value: str) -> str:
    """Of a Python its environment's folder, of a line the line."""
    return Path(value).parts[-3] if value in PYTHONS else value


@pytest.fixture(params=PYTHONS, ids=_name_of)
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """`edge-lfm` on the path runs in one of the Pythons; the others compile kernels of their own, once."""
    folder = tmp_path_factory.getbasetemp() / f"python-{_name_of(request.param)}"
    folder.mkdir(exist_ok=True)
    script = folder / "edge-lfm"
    script.write_text(f'#!/bin/sh\nexec {request.param} -P -m edge_lfm.cli.main "$@"\n', encoding="ascii")
    script.chmod(0o755)
    own_cache = {} if request.param == sys.executable else {"EDGE_LFM_CACHE": str(folder / "cache")}
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHON": request.param} | own_cache


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_originals(tmp_path_factory.mktemp("originals"))


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub({"LiquidAI/LFM2-24B-A2B": demo_checkpoint()}) as hub:
        yield hub


@pytest.mark.parametrize(("environment", "line"), RUNS, indirect=["environment"], ids=_name_of)
def test_documented_lines_run(
    line: str, environment: dict[str, str], originals: dict[str, Path], hub: Hub, tmp_path: Path
) -> None:
    line = with_stand_ins(line)
    lay_out(tmp_path, originals, line)
    process = subprocess.Popen(
        ["sh", "-ec", line.replace("edge-lfm serve", "exec edge-lfm serve")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        env=environment | {"HF_ENDPOINT": hub.endpoint, "EDGE_LFM_MODELS": str(tmp_path / "models")},
    )  # fmt: skip
    with process:
        if " serve " in line:
            assert process.stdout and "listens on" in process.stdout.readline()
            process.send_signal(signal.SIGTERM)
        asks = " run " in line and '"' in line  # what is piped in would stand before it
        out, err = process.communicate("" if asks else "How do I reset it?\n", timeout=240)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    made = re.findall(r"-o (\S+)", line)
    assert all((tmp_path / name).exists() for name in made)
    assert made or out.strip() or " serve " in line
    assert out.startswith(documented_outputs().get(line, "").rstrip())


@pytest.mark.parametrize("words", ORDERS, ids=" ".join)
def test_options_stand_anywhere(words: list[str], environment: dict[str, str]) -> None:
    """Of two optional words, argparse takes one or both, depending on the Python."""
    code = (
        "import sys; from edge_lfm.cli.parsing import parse; a = parse(sys.argv[1:]); print(a.model, a.prompt, a.ram)"
    )
    command = [environment["PYTHON"], "-P", "-c", code, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "M P 4G\n", done.stderr


def test_documented_lines_are_understood(environment: dict[str, str]) -> None:
    commands = [re.split(r"[|<>;&]", with_stand_ins(line).partition("edge-lfm ")[2])[0] for line in RUNNABLE]
    lines = [shlex.split(command) for command in commands if "--help" not in command]
    code = (
        "import json, sys; from edge_lfm.cli.parsing import parse; [print(parse(w).verb) for w in json.load(sys.stdin)]"
    )
    command = [environment["PYTHON"], "-P", "-c", code]
    done = subprocess.run(
        command, env=environment, input=json.dumps(lines), capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == [words[0] for words in lines], done.stderr


@pytest.mark.parametrize("beginning", CANNOT_RUN)
def test_what_cannot_run_is_documented_and_parses(beginning: str) -> None:
    lines = [line for line in documented_lines() if line.startswith(beginning)]
    assert lines
    for line in lines:
        words = shlex.split(line.partition("edge-lfm ")[2])
        assert parse(words).verb == words[0]


def test_newer_pythons_were_tried() -> None:
    if len(PYTHONS) == 1:
        pytest.skip("needs edge-lfm in other Pythons: EDGE_LFM_PYTHONS, as make test-pythons sets it")
