"""Forms for issues and changes: they can be read, and ask for commands and targets that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from edge_lfm.cli.parsing import parse

FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))


def test_there_are_forms() -> None:
    assert {path.stem for path in FORMS} == {"bug", "slow", "wish"}


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_for_the_doctor_and_for_commands_that_there_are(form: Path) -> None:
    read = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert read["name"] and read["description"]
    fields = [part for part in read["body"] if part["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    commands = re.findall(r"`(edge-lfm [^`]+)`", form.read_text(encoding="utf-8"))
    assert "edge-lfm doctor --json" in commands
    for command in commands:
        assert parse(shlex.split(command)[1:]).verb == command.split()[1]


def test_the_template_of_a_change_names_targets_that_there_are() -> None:
    text = (ROOT / ".github/pull_request_template.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([\w-]+)`", text))
    assert named and named <= TARGETS


def test_what_the_night_runs_is_there() -> None:
    command = re.search(r"^nightly:.*\n\t\$\(MAKE\) ((?:.*\\\n)*.*)", MAKEFILE, re.MULTILINE)
    assert command
    named = {word for word in command[1].split() if re.fullmatch(r"[a-z-]+", word) and not word.startswith("--")}
    assert {"fuzz", "soak", "test-arm", "test-mixes"} <= named <= TARGETS
