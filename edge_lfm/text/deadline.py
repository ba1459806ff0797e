"""A time limit for Python code that may take for ever: a template comes with a model, a request from a stranger."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_AGAIN_SECONDS = 1.0
"""Long beside what ends a call of `within`, so that no second interruption meets it."""


class _TimeUpError(BaseException):
    """Raised inside the code that takes too long; no `except Exception` there can hold it."""


def within(seconds: float, function: Callable[[], T], given_up: threading.Event | None = None) -> T:
    """What a function gives, if it does within so long; else it is interrupted between two of its own instructions.

    The clock starts inside the `try`, and an interruption on its way is taken back before it ends: none gets out,
    however busy the interpreter is. A context manager could not promise that.

    Args:
        given_up: set by who waits for the result no longer; the function is then interrupted at once.

    Raises:
        TimeoutError: it took longer, or was given up.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    lock, done, wake = threading.Lock(), False, given_up if given_up is not None else threading.Event()

    def interrupt() -> None:
        wake.wait(seconds)
        while not done:  # an interruption is lost where it meets a destructor or a callback of the garbage collector
            with lock:
                if not done:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_TimeUpError))
            time.sleep(_AGAIN_SECONDS)

    watch = threading.Thread(target=interrupt, name="edge-lfm-deadline", daemon=True)
    try:
        try:
            watch.start()
            return function()
        finally:
            with lock:
                done = True
            wake.set()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)  # one that is still on its way
    except _TimeUpError:
        wake.set()
        raise TimeoutError(f"it took longer than {seconds:g} s") from None
