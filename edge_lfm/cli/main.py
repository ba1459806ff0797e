"""The command `edge-lfm`: finds the verb, runs it, and turns every error into one line and an exit code.

Knows no verb's arguments; each verb is a module with `HELP`, `EXAMPLE`, `add_arguments` and `run`.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType, ModuleType

from edge_lfm.cli import (
    ask,
    bench,
    bundle,
    calibrate,
    chat,
    compile,
    complete,
    devices,
    doctor,
    eval,
    export,
    extract,
    fit,
    inspect,
    pull,
    quantize,
    run,
    serve,
    synth,
    verify,
)
from edge_lfm.errors import EdgeLfmError
from edge_lfm.version import VERSION

VERBS: dict[str, ModuleType] = {
    "run": run,
    "chat": chat,
    "serve": serve,
    "ask": ask,
    "extract": extract,
    "complete": complete,
    "pull": pull,
    "quantize": quantize,
    "export": export,
    "calibrate": calibrate,
    "eval": eval,
    "verify": verify,
    "inspect": inspect,
    "synth": synth,
    "bench": bench,
    "fit": fit,
    "devices": devices,
    "compile": compile,
    "bundle": bundle,
    "doctor": doctor,
}
INTERRUPTED, TERMINATED = 130, 143


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="edge-lfm",
        description="Run Liquid AI's LFM2 models on machines without a GPU.",
        epilog='example: edge-lfm run "What is the capital of France?"',
    )
    parser.add_argument("--version", action="version", version=f"edge-lfm {VERSION}")
    parser.add_argument("--debug", action="store_true", help="show Python's traceback of an error")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, module in VERBS.items():
        verb = verbs.add_parser(name, help=module.HELP, description=module.HELP, epilog=f"example: {module.EXAMPLE}")
        module.add_arguments(verb)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    _set_up_streams()
    args = make_parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        VERBS[args.verb].run(args)
        sys.stdout.flush()
        return 0
    except EdgeLfmError as error:
        if args.debug:
            raise
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nedge-lfm: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader has gone, as in `edge-lfm run ... | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        print("edge-lfm: error: out of memory (use a smaller model or context)", file=sys.stderr)
        return 4


def _set_up_streams() -> None:
    """Characters that a terminal cannot show, or that a pipe should not have sent, end no answer in a traceback."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)  # so that half-written output is cleaned up


def _complain(error: EdgeLfmError) -> None:
    message = " ".join(str(error).split())
    print(f"edge-lfm: error: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
