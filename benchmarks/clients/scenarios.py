"""What every client is asked, and how its script tells what came of it.

A script's functions are the scenarios that its client has; each returns what `checks.py` looks at. chat: the text;
stream: its pieces; tools: the arguments that the tool got; schema: the object; tools_with_schema: one or the other;
error: the words of the error; cancel: 1, when it has left an answer that would go on; agent: what a command-line agent
wrote.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAID = json.loads(Path(__file__).with_name("scenarios.json").read_text(encoding="utf-8"))
QUESTION, WEATHER, EXTRACT = SAID["question"], SAID["weather"], SAID["extract"]
TOOL, SCHEMA = SAID["tool"], SAID["schema"]
FUNCTION = {"type": "function", "function": TOOL}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
ASKED = [{"role": "user", "content": QUESTION}]
ASKED_WEATHER = [{"role": "user", "content": WEATHER}]
ASKED_PERSON = [{"role": "user", "content": EXTRACT}]
ENDLESS = {"ignore_eos": True, "max_tokens": 30_000}
"""Beside OpenAI's fields: an answer that ends only when its client leaves, or the context is full."""

ADDRESS, MODEL, KEY = sys.argv[1], "demo", "none"
V1 = f"{ADDRESS}/v1"


def report(*scenarios: Callable[[], Any]) -> None:
    """Run the scenarios, and tell each as a line of JSON: what it gave, or its error."""
    for scenario in scenarios:
        try:
            told = {"value": scenario()}
        except Exception as error:
            told = {"failed": f"{type(error).__name__}: {error}"[:500]}
        print(json.dumps({"scenario": scenario.__name__} | told), flush=True)


def error_of(ask: Callable[[], Any], *kinds: type[Exception]) -> str:
    """The words of the error that asking ends in."""
    try:
        answer = ask()
    except kinds as error:
        return str(error)
    raise AssertionError(f"no error, but {answer!r:.200}")
