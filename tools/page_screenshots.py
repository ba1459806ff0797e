"""Make the pictures of the chat page in docs/images anew, in headless Chromium, with the demo model:

PYTHONPATH=tests python tools/page_screenshots.py
"""

from __future__ import annotations

from pathlib import Path

from browser import Browser
from serving import serving

from edge_lfm.demo import packed_demo

IMAGES = Path(__file__).parent.parent / "docs" / "images"
IDLE = "running === null && document.getElementById('send').textContent === 'Send'"
SAID = ("My name is Anna and I live in Paris.", "What is my name?", "What is the capital of France?")


def draw(address: str, name: str, width: int, height: int, scheme: str) -> None:
    """A conversation, as a PNG of so many pixels."""
    with Browser(width, height) as browser:
        browser.emulate_scheme(scheme)
        browser.go(address)
        for n, text in enumerate(SAID, 1):
            browser.type(text)
            browser.press("Enter", 13)
            browser.wait(f"document.querySelectorAll('article').length >= {2 * n} && {IDLE}", 30)
        browser.screenshot(IMAGES / name)


if __name__ == "__main__":
    with serving(str(packed_demo()), "--name", "demo") as where:
        draw(where, "chat_page.png", 1000, 720, "light")
        draw(where, "chat_page_narrow.png", 390, 720, "dark")
