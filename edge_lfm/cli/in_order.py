"""Lines of text, and work on many inputs at once, its results in their order. Knows neither models nor the work."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import Queue
from threading import Thread
from typing import TypeVar

from edge_lfm.cli.text_files import MAX_TEXT_BYTES, text_of
from edge_lfm.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")


def in_order(inputs: Iterable[T], work: Callable[[T], R], together: int) -> Iterator[R]:
    """What `work` makes of each input, `together` of them at a time.

    A result comes as soon as those before it have come: inputs are read in a thread, so that one who waits for it
    before he writes the next gets it. What reading or working raised comes in its place, and ends the work.
    """
    begun: Queue[Future[R] | None] = Queue(together)
    pool = ThreadPoolExecutor(together)

    def read() -> None:
        try:
            for one in inputs:
                begun.put(pool.submit(work, one))
        except Exception as error:
            failed: Future[R] = Future()
            failed.set_exception(error)
            begun.put(failed)
        begun.put(None)

    Thread(target=read, daemon=True).start()
    try:
        while (future := begun.get()) is not None:
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def read_lines(name: str) -> Iterator[str]:
    """The lines of a file that are not empty, each when it is there; "-": of standard input, which is read through a
    file of its own: a thread that waits for a line holds `sys.stdin`, which the interpreter's end would find locked.

    Raises:
        UsageError: it cannot be read, or a line is no text.
    """
    try:
        with open(sys.stdin.fileno() if name == "-" else name, "rb", closefd=name != "-") as lines:
            for number in itertools.count(1):
                line = lines.readline(MAX_TEXT_BYTES + 1)
                if not line:
                    return
                if text := text_of(line, f"line {number}").strip():
                    yield text
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}", hint="give a file of lines of text") from None
