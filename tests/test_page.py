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
LAST = "document.querySelector('article:last-of-type .text')"
IDLE = "running === null && document.getElementById('send').textContent === 'Send'"


@pytest.fixture(scope="module")
def address(demo: dict[str, Path]) -> Iterator[str]:
    small = ("--ram", paging_ram(demo["balanced"], 1024, threads=1), "--context", "1024")
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


SAID = r"""# Title

Some **bold**, *italic* and `code <b>`, a [link](https://example.org/a) and [none](javascript:alert(1)).

- one
  - two
- three

| a | b |
|---|---|
| 1 | <i>2</i> |

```python
def f(x):
    return "<script>window.forged = 1</script>"
```
<img src=x onerror="window.forged = 1"> <script>window.forged = 1</script>
> quoted **text**
"""


def test_markdown_becomes_nodes_and_content_never_markup(address: str) -> None:
    with Browser(1000, 720) as browser:
        browser.go(address)
        browser.run("document.body.append(element('div', [], {id: 'made'}))")
        for end in (7, 60, 140, len(SAID)):  # as it streams
            browser.run(
                f"(window.shown ??= new Rendered(document.getElementById('made'))).update({json.dumps(SAID[:end])})"
            )
        for selector, text in (
            ("h3", "Title"), ("strong", "bold"), ("em", "italic"), ("p code", "code <b>"), ("li li", "two"),
            ("th", "a"), ("td:last-child", "<i>2</i>"), ("blockquote strong", "text"), ("a", "link"),
        ):  # fmt: skip
            assert browser.run(f"document.querySelector('#made {selector}').textContent") == text
        assert "<script>" in browser.run("document.querySelector('#made pre').textContent")
        tags = browser.run("[...document.querySelectorAll('#made *')].map(n => n.tagName).join(' ')")
        assert not {"SCRIPT", "IMG", "I", "B"} & {*tags.split()} and browser.run("window.forged") is None
        assert browser.run("[...document.querySelectorAll('#made a')].map(a => a.href)") == ["https://example.org/a"]
        whole = "(h => (new Rendered(h).update(SAID), h.innerHTML))(document.createElement('div'))"
        same = whole.replace("SAID", json.dumps(SAID))
        assert browser.run(same) == browser.run("document.getElementById('made').innerHTML")


HOSTILE = [
    "**" * 4000,
    ">" * 20_000,
    "[" * 20_000,
    "`" * 20_000,
    "- " * 9000,
    "|" * 20_000,
    "*a" * 9000,
    "  " * 9000 + "- x",
]


def test_hostile_answers_are_drawn(address: str) -> None:
    with Browser(1000, 720) as browser:
        browser.go(address)
        for text in HOSTILE:
            drawn = f"new Rendered(h).update({json.dumps(text)}), h.textContent.length"
            assert browser.run(f"(h => ({drawn}))(document.createElement('div'))") >= 0


def test_conversations_outlive_a_reload(address: str) -> None:
    """Several of them, with the key and the settings; edited, exported, deleted."""
    with Browser(1000, 720) as browser:
        browser.go(address)
        browser.run(
            "document.getElementById('key').value = 'secret', document.getElementById('system').value = 'Be brief.'"
        )
        browser.run("document.getElementById('settings').dispatchEvent(new Event('input'))")
        ask(browser, "What is the capital of France?")
        browser.press("n", 78, modifiers=1)
        ask(browser, "What is the capital of Italy?")
        browser.go(address)
        assert browser.run("messages.length") == 2 and "Italy" in browser.run("messages[0].content")
        assert browser.run("document.querySelectorAll('article').length") == 2
        assert browser.run("[document.getElementById('key').value, document.getElementById('system').value]") == [
            "secret", "Be brief."
        ]  # fmt: skip
        assert "secret" not in browser.run("JSON.stringify({...localStorage})")
        titles = "[...document.querySelectorAll('#talks li button:first-child')].map(b => b.textContent)"
        assert browser.run(titles) == ["What is the capital of Italy?", "What is the capital of France?"]
        browser.run("document.querySelectorAll('#talks li button:first-child')[1].click()")
        assert "France" in browser.run("messages[0].content")
        browser.run("document.querySelector('article.user .tools button:last-child').click()")
        browser.run("document.getElementById('prompt').value = ''")
        assert browser.run("editing") == 0
        browser.type("My name is Anna and I live in Paris.")
        browser.press("Enter", 13)
        browser.wait(f"{IDLE} && messages.length === 2")
        assert "Anna" in browser.run("messages[0].content")
        assert "## You\n\nMy name is Anna" in browser.run("exported({messages}, 'md')")
        assert browser.run("JSON.parse(exported({title: 't', messages}, 'json')).messages.length") == 2
        browser.run("document.querySelectorAll('#talks li button:last-child')[1].click()")
        assert len(browser.run(titles)) == 1


def test_a_server_that_dies_leaves_the_partial_answer(demo: dict[str, Path]) -> None:
    with Browser(1000, 720) as browser:
        with serving(str(demo["int4"]), "--grace", "0") as where:
            begin_a_long_answer(browser, where)
            browser.wait(f"document.querySelectorAll('article').length === 2 && {LAST}.textContent.length > 20")
        browser.wait(IDLE)
        assert browser.run("messages.length") == 2 and len(browser.run("messages[1].content")) > 20
        assert browser.run("document.querySelector('article:last-of-type .error').textContent")


MODULES = Path(os.environ.get("EDGE_LFM_NODE_MODULES", Path(__file__).parent.parent / "build/javascript/node_modules"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(address: str, scheme: str) -> None:
    axe = MODULES / "axe-core/axe.min.js"
    if not axe.exists():
        pytest.skip(f"needs the npm package axe-core in {MODULES} (make test-javascript installs it)")
    with Browser(390, 800) as browser:
        browser.emulate_scheme(scheme)
        browser.go(address)
        ask(browser, "What is the capital of France?")
        browser.run(f"messages.push({{role: 'assistant', content: {json.dumps(SAID)}}}), redraw()")
        browser.run("document.getElementById('more').click(), document.getElementById('old').click()")
        browser.run(axe.read_text(encoding="utf-8") + "; 0")
        found = browser.run(
            "axe.run().then(r => r.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html).slice(0, 3)]))"
        )
        assert [violation for violation in found if violation[0] in ("serious", "critical")] == []
        assert browser.run("document.documentElement.scrollWidth <= 390")
