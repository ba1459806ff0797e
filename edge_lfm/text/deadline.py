"""A time limit for Python code that may loop: a chat template comes with a model, and can be hostile."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _TimeUpError(BaseException):
    """Raised inside the code that takes too long; no `except Exception` there can hold it."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Run the block for at most so long; it is interrupted between two of its own instructions.

    Raises:
        TimeoutError: it took longer.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    lock, done = threading.Lock(), False

    def interrupt() -> None:
        with lock:
            if not done:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(_TimeUpError))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        try:
            yield
        finally:
            with lock:
                done = True
            timer.cancel()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)  # one that is still on its way
    except _TimeUpError:
        raise TimeoutError(f"it took longer than {seconds:g} s") from None
