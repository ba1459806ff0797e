"""A live line while an answer is written by a paged model: tokens per second, and what its experts cost.

The answer has the terminal's lines, so this goes into the window's title; where the answer goes into a file, it is a
line on standard error. Nothing is shown where nobody looks.
"""

from __future__ import annotations

import sys
import time

from edge_lfm.api import PagingStats

_EVERY_S = 0.5
_FIRST_S = 2.0  # an answer that is over by then needs no line
_SAVE_TITLE, _RESTORE_TITLE = "\x1b[22;2t", "\x1b[23;2t"


class LiveLine:
    """Call `part` for every part of the answer, a token but for characters of several; `close` at the end."""

    def __init__(self, paging: PagingStats) -> None:
        self._paging, self._before = paging, paging.copy()
        self._started = self._shown_at = time.monotonic()
        self._tokens, self._shown = 0, False
        self._as_title = sys.stdout.isatty()
        self._on = sys.stderr.isatty()

    def part(self) -> None:
        self._tokens += 1
        now = time.monotonic()
        if self._on and now - self._started >= _FIRST_S and now - self._shown_at >= _EVERY_S:
            self._show(describe(self._paging.since(self._before), self._tokens, now - self._started))
            self._shown_at = now

    def close(self) -> None:
        if self._shown:
            sys.stderr.write(_RESTORE_TITLE if self._as_title else "\r\x1b[K")
            sys.stderr.flush()
            self._shown = False

    def _show(self, line: str) -> None:
        if self._as_title:
            sys.stderr.write(("" if self._shown else _SAVE_TITLE) + f"\x1b]2;{line}\x07")
        else:
            sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()
        self._shown = True


def describe(paging: PagingStats, tokens: int, seconds: float) -> str:
    """One line of what so many tokens took."""
    return (
        f"{tokens} tokens, {tokens / seconds:.1f} tok/s; experts {paging.hit_rate:.0%} in memory, "
        f"{paging.bytes_read / tokens / 1e6:.0f} MB read per token, {paging.stall_s.sum() / seconds:.0%} waiting"
    )
