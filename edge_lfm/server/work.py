"""Work of a request that is no step of the model: reading its prompt, compiling its grammar, checking its answer.

It runs in threads, so that the loop goes on; large requests one after the other, so that a heap of them is no more than
one; within a time; and it is interrupted when its client has left. What native code could make endless runs in
processes (`trials.py` of the engine).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

from edge_lfm.api import within
from edge_lfm.server.failures import RequestError

T = TypeVar("T")
MAX_SECONDS = 30.0
"""On a small board a context of 32,768 tokens is read from its text in some seconds."""
LARGE_BYTES = 64 << 10
MAX_THREADS = 32


class Work:
    """The threads of one server."""

    def __init__(self) -> None:
        self._small, self._large = CapacityLimiter(MAX_THREADS), CapacityLimiter(1)

    async def run(self, function: Callable[..., T], *arguments: Any, nbytes: int = 0) -> T:
        """What a function gives. `nbytes`: of the request that it works on.

        Raises:
            RequestError: it takes too long.
        """
        left, limiter = threading.Event(), self._large if nbytes > LARGE_BYTES else self._small
        work = partial(within, MAX_SECONDS, partial(function, *arguments), left)
        try:
            return await to_thread.run_sync(work, limiter=limiter, abandon_on_cancel=True)
        except TimeoutError:
            raise RequestError(f"this takes longer than {MAX_SECONDS:g} s to prepare; make it smaller") from None
        finally:
            left.set()
