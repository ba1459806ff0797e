"""Eight clients of benchmarks/clients against a server, each from its own environment (`.ci/run` installs them)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

CLIENTS = Path(__file__).parent.parent / "benchmarks" / "clients"
CORE = ("openai", "openai-npm", "anthropic", "anthropic-npm", "ollama", "langchain", "pydantic-ai", "ai-sdk")
"""Those of clients.toml that are marked as the core."""


@pytest.fixture(scope="module")
def runner() -> Iterator[Any]:
    """The benchmark's module, and the folder of its scripts on the path meanwhile."""
    sys.path.insert(0, str(CLIENTS))
    yield importlib.import_module("run")
    sys.path.remove(str(CLIENTS))


@pytest.fixture(scope="module")
def server(runner: Any) -> Iterator[Any]:
    with runner.Served() as served:
        yield served


@pytest.fixture(scope="module")
def clients(runner: Any) -> dict[str, Any]:
    found: dict[str, Any] = runner.read_clients()
    return found


@pytest.mark.parametrize("name", CORE)
def test_a_client_does_all_its_scenarios(name: str, clients: dict[str, Any], request: pytest.FixtureRequest) -> None:
    client = clients[name]
    if not client.installed:
        pytest.skip(f"needs {name} in {client.folder} (python benchmarks/clients/run.py --install {name})")
    runner, server = request.getfixturevalue("runner"), request.getfixturevalue("server")
    found = runner.ask(client, server)
    assert set(found) == set(runner.SCENARIOS) - {"agent"}
    assert set(found.values()) <= {runner.YES, runner.NO_CALL}, found


def test_the_list_names_scripts_that_are_there(clients: dict[str, Any]) -> None:
    assert len(clients) == 27 and {name for name, client in clients.items() if client.core} == set(CORE)
    assert {client.script for client in clients.values()} == {
        path.name for path in CLIENTS.glob("*_client.*") if path.suffix in (".py", ".mjs")
    } | {path.name for path in CLIENTS.glob("*_agent.py")}


def test_verdicts_tell_right_from_wrong(runner: Any) -> None:
    verdict = runner.verdict
    assert verdict("chat", {"value": "The capital of France is Paris."}) == runner.YES
    assert verdict("tools", {"value": None}) == runner.NO_CALL
    for scenario, wrong in (
        ("chat", "Rome"),
        ("stream", ["The capital of France is Paris."]),
        ("tools", {"town": "Paris"}),
        ("schema", {"name": "Anna"}),
        ("tools_with_schema", {"city": 5}),
        ("error", "Connection refused"),
        ("cancel", 0),
        ("agent", " "),
    ):
        assert verdict(scenario, {"value": wrong}).startswith("unexpected"), scenario
    assert verdict("chat", {"failed": "ValueError: x"}) == "ValueError: x"
