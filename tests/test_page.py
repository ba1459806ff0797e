"""The chat page in headless Chromium, by keyboard: on a desk and on a telephone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from serving import serving
from stepping import paging_ram

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: sudo apt install chromium"),
    pytest.mark.slow,
]
LAST = "document.querySelector('article:last-of-type')"
IDLE = "running === null && document.getElementById('send').textContent === 'Send'"


@pytest.fixture(scope="module")
def address(demo: dict[str, Path]) -> Iterator[str]:
    small = ("--ram", paging_ram(demo["balanced"], 1024), "--context", "1024")
    with serving(str(demo["balanced"]), *small, "--name", "demo <b>") as where:
        yield where


def ask(browser: Browser, text: str) -> str:
    count = browser.run("document.querySelectorAll('article').length")
    browser.type(text)
    browser.press("Enter", 13)
    browser.wait(f"document.querySelectorAll('article').length >= {count + 2} && {IDLE}")
    return str(browser.run(f"{LAST}.textContent"))


def test_a_conversation_by_keyboard(address: str) -> None:
    with Browser(1000, 720) as browser:
        browser.go(address)
        assert browser.run("document.title") == "demo <b>"
        ask(browser, "My name is Anna and I live in Paris.")
        assert "Anna" in ask(browser, "What is my name?")
        figures = browser.run("document.getElementById('figures').textContent")
        assert "known" in figures and "tok/s" in figures and "experts in memory" in figures
        assert browser.run("document.activeElement.id") == "prompt"
        browser.press("r", 82, modifiers=1)
        browser.wait(f"{IDLE} && messages.length === 4")
        assert "Anna" in browser.run(f"{LAST}.textContent")
        if path := os.environ.get("EDGE_LFM_SCREENSHOT"):
            browser.screenshot(Path(path))
        browser.press("n", 78, modifiers=1)
        assert browser.run("document.querySelectorAll('article').length") == 0
        requests = [json.loads(m)["request"]["url"] for m in browser.messages if '"request"' in m]
        assert requests and all(url.startswith(address) for url in requests)
        assert not [m for m in browser.messages if "exceptionDetails" in m]


def begin_a_long_answer(browser: Browser, address: str) -> None:
    browser.go(address)
    browser.run("document.getElementById('temperature').value = 5, document.getElementById('max_tokens').value = ''")
    browser.run("document.getElementById('prompt').focus()")
    browser.type("Tell me a story.")
    browser.press("Enter", 13)


def test_stopping_an_answer(address: str) -> None:
    with Browser(1000, 720) as browser:
        begin_a_long_answer(browser, address)
        browser.wait("document.getElementById('send').textContent === 'Stop'")
        browser.press("Escape", 27)
        browser.wait(IDLE)
        browser.run("document.getElementById('temperature').value = 0")
        assert "Paris" in ask(browser, "What is the capital of France?")


def test_leaving_a_conversation_while_it_is_answered(address: str) -> None:
    with Browser(1000, 720) as browser:
        begin_a_long_answer(browser, address)
        browser.wait(f"document.querySelectorAll('article').length === 2 && {LAST}.textContent")
        browser.press("n", 78, modifiers=1)
        browser.wait(IDLE)
        assert browser.run("messages.length") == 0 and browser.run("document.querySelectorAll('article').length") == 0
        browser.run("document.getElementById('temperature').value = 0")
        assert "Paris" in ask(browser, "What is the capital of France?") and browser.run("messages.length") == 2


def test_errors_are_shown_and_the_question_is_kept(address: str) -> None:
    with Browser(1000, 720) as browser:
        browser.go(address)
        browser.run("document.getElementById('top_p').value = 7")
        assert "top_p" in ask(browser, "Hello")
        assert browser.run("document.getElementById('prompt').value") == "Hello" and browser.run("messages.length") == 0


AGE = {"type": "object", "properties": {"age": {"enum": [5]}}, "required": ["age"], "additionalProperties": False}


def test_a_schema(address: str) -> None:
    with Browser(1000, 720) as browser:
        browser.go(address)
        browser.run(
            "document.getElementById('schema').value = '{', document.getElementById('prompt').value = 'x', send()"
        )
        assert "not JSON" in browser.run(f"{LAST}.textContent")
        browser.run(f"document.getElementById('schema').value = {json.dumps(json.dumps(AGE))}")
        browser.run("document.getElementById('prompt').value = '', document.getElementById('prompt').focus()")
        assert json.loads(ask(browser, "Anna is 5.")) == {"age": 5}


def test_a_small_screen(address: str) -> None:
    with Browser(360, 640) as browser:
        browser.go(address)
        browser.run("document.getElementById('more').click()")
        ask(browser, "What is the capital of France?")
        assert browser.run("document.documentElement.scrollWidth <= 360")
        box = browser.run("(r => [r.left, r.right, r.bottom])(document.getElementById('send').getBoundingClientRect())")
        assert box[0] >= 0 and box[1] <= 360 and box[2] <= 640
