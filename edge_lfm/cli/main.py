"""The command `edge-lfm`: finds the verb, runs it, and turns every error into one line and an exit code."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from edge_lfm.cli.parsing import parse, verb_module
from edge_lfm.errors import DoesNotFitError, EdgeLfmError, OutputError

INTERRUPTED, TERMINATED = 130, 143
_MAX_MESSAGE = 2000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    _set_up_streams()
    logging.getLogger("edge_lfm").handlers[:] = [_Warnings(logging.WARNING)]
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # a verb's packages take half a second to import: there, too
        print("\nedge-lfm: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    args = parse(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        verb_module(args.verb).run(args)
        sys.stdout.flush()
        return 0
    except Exception as error:
        if isinstance(error, OSError):
            _forget_output()
        if isinstance(error, BrokenPipeError):  # the reader has gone, as in `edge-lfm run ... | head -1`
            return 0
        if args.debug:
            raise
        complaint = error if isinstance(error, EdgeLfmError) else _told(error)
        _complain(complaint)
        return complaint.exit_code


def _told(error: Exception) -> EdgeLfmError:
    """What no part of the program expected, as one line: a limit of the system, or a fault of ours."""
    if isinstance(error, MemoryError):
        return DoesNotFitError("out of memory", hint="use a smaller model or context")
    if isinstance(error, OSError) and error.errno is not None:
        return OutputError(f"{error.filename or 'standard output'}: {error.strerror}", hint="check space and limits")
    kind = type(error).__name__
    return EdgeLfmError(f"internal fault: {kind}: {error}", hint="--debug in front of the verb shows where; report it")


class _Warnings(logging.Handler):
    """Shows the package's log as a verb tells its own warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"edge-lfm: warning: {record.getMessage()}", file=sys.stderr)


class _Forgiving(io.TextIOWrapper):
    """Standard error: what cannot be told there ends no command."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def _set_up_streams() -> None:
    """Closed streams lead nowhere; characters that a terminal cannot show, or that a pipe should not have sent, end no
    answer in a traceback.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:  # closed: without this, the next file to be opened would take its number
            os.open(os.devnull, os.O_RDWR)  # takes the lowest one that is free
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    for kept, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(kept, io.TextIOWrapper):
            kept.reconfigure(errors=errors)
    if sys.stderr is sys.__stderr__ and type(sys.stderr) is io.TextIOWrapper:
        encoding = sys.stderr.encoding
        sys.stderr = _Forgiving(sys.stderr.detach(), encoding, "backslashreplace", line_buffering=True)
        sys.__stderr__ = sys.stderr  # type: ignore[misc]


def _forget_output() -> None:
    """What is still in the buffer cannot be written; do not try again at the end of the process."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):  # the latter: a stream without a descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)  # so that half-written output is cleaned up


def _complain(error: EdgeLfmError) -> None:
    message = " ".join(str(error).split())
    if len(message) > _MAX_MESSAGE:
        message = message[: _MAX_MESSAGE - 4] + " ..."
    print(f"edge-lfm: error: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
