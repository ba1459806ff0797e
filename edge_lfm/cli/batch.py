"""`edge-lfm batch`: a file of requests in, one of answers out, in OpenAI's batch format; resumed where it stopped."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from edge_lfm.cli.arguments import load_options_of, print_json
from edge_lfm.cli.local_models import find_model, obtain
from edge_lfm.errors import CheckError, MissingExtraError
from edge_lfm.pull.hub import is_repository

if TYPE_CHECKING:
    from edge_lfm.server.settings import Settings


def run(args: argparse.Namespace) -> None:
    try:
        from edge_lfm.server.batch import answer_here
        from edge_lfm.server.batch_cluster import answer_on_cluster
        from edge_lfm.server.batch_lines import Requests
        from edge_lfm.server.batch_output import BatchOutput
    except ImportError as error:
        raise MissingExtraError(f"batches need the package {error.name}", extra="server") from None
    requests = Requests(args.requests, _name_of(args))
    with BatchOutput(args.output) as output:
        left = requests.left(output)
        counts, lost = _Counts(len(left)), 0

        def take(record: dict[str, Any]) -> None:
            output.write(record)
            counts.note(record)

        try:
            for line in left:
                if line.problem:
                    take(line.refusal())
            if not (to_answer := requests.left(output)):
                pass  # no model is loaded for nothing
            elif args.ray:
                lost = answer_on_cluster(args.ray, partial(_settings_on_machine, args), requests, output, take)
            else:
                _run_until_signal(answer_here(_settings_of(args), requests, to_answer, take))
        finally:
            counts.close()
    summary = {"requests": len(requests.lines), "before": len(requests.lines) - len(left), **counts.as_json()}
    if args.json:
        print_json(summary | ({"machines_lost": lost} if args.ray else {}))
    else:
        before = f", {summary['before']} before" if summary["before"] else ""
        gone = f"; {lost} machines were lost" if lost else ""
        print(f"{summary['answered']} answered{before}; {summary['tokens_per_s']:.1f} tok/s{gone}", file=sys.stderr)
    if counts.failed:
        raise CheckError(f"{counts.failed} requests failed", hint=f"{args.output} says why, in their places")


def _run_until_signal(answering: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`, which cancels the coroutine at SIGINT; SIGTERM does so here too.

    The process's own handler of SIGTERM raises. Raised while the loop starts a worker thread, that left a thread which
    nobody told to end, and the process waited for it for ever.
    """
    handler, terminated = signal.getsignal(signal.SIGTERM), False

    async def run() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(answering)

        def end() -> None:
            nonlocal terminated
            terminated = True
            loop.remove_signal_handler(signal.SIGTERM)  # a second one ends the process at once: lines are written whole
            task.cancel()

        loop.add_signal_handler(signal.SIGTERM, end)
        await task

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        if not terminated:
            raise
    finally:
        signal.signal(signal.SIGTERM, handler)
    if terminated:
        signal.raise_signal(signal.SIGTERM)


def _name_of(args: argparse.Namespace) -> str:
    """What requests call the model."""
    from edge_lfm.server.settings import Settings

    return args.name or (Path(args.model).resolve().name if args.model else Settings.name)


def _settings_of(args: argparse.Namespace) -> Settings:
    """The model of this machine, and how it is loaded."""
    from edge_lfm.server.settings import Settings

    return Settings(load=load_options_of(args.model, args), name=_name_of(args), queue=_QUEUE, strict_model=True)


def _settings_on_machine(args: argparse.Namespace) -> Settings:
    """The same on a machine of a cluster, which gets a repository's model by itself if it has not got it."""
    if args.model and not Path(found := find_model(args.model)).exists() and is_repository(found):
        obtain(found)
    return _settings_of(args)


_QUEUE = 1 << 16
"""No request of a file is told to come again."""


class _Counts:
    """What came of the requests, and a bar of it with tokens per second and the time left, on a terminal."""

    def __init__(self, total: int) -> None:
        self.answered = self.failed = self.tokens = 0
        self._started = time.perf_counter()
        self._bar = tqdm(total=total, desc="answering", unit="request", delay=0.5, file=sys.stderr, disable=None)

    def note(self, record: dict[str, Any]) -> None:
        response = record["response"] or {"status_code": 0, "body": {}}
        answered, usage = response["status_code"] == 200, response["body"].get("usage") or {}
        self.answered, self.failed = self.answered + answered, self.failed + (not answered)
        self.tokens += usage.get("completion_tokens", usage.get("output_tokens", 0))
        self._bar.set_postfix_str(f"{self._rate():.1f} tok/s", refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()

    def as_json(self) -> dict[str, float]:
        return {
            "answered": self.answered,
            "failed": self.failed,
            "tokens": self.tokens,
            "tokens_per_s": round(self._rate(), 2),
        }

    def _rate(self) -> float:
        return self.tokens / (time.perf_counter() - self._started)
