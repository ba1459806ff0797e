"""`edge-lfm batch`: a file of requests in, one of answers out, in OpenAI's batch format; resumed where it stopped."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from tqdm import tqdm

from edge_lfm.cli.arguments import add_model_arguments, load_options_of, print_json
from edge_lfm.errors import CheckError, MissingExtraError

HELP = "answer a file of requests (OpenAI's batch format); resumes"
EXAMPLE = "edge-lfm batch requests.jsonl -o answers.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("requests", type=Path, metavar="FILE", help="requests, one a line: custom_id, url, body")
    parser.add_argument("model", nargs="?", help="folder of a packed model (default: the embedded demo model)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="answers, one a line")
    parser.add_argument("--name", help="the model's name in the requests (default: the folder's)")
    add_model_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")


def run(args: argparse.Namespace) -> None:
    try:
        from edge_lfm.server.batch import Batch
        from edge_lfm.server.batch_output import BatchOutput
        from edge_lfm.server.settings import Settings
    except ImportError as error:
        raise MissingExtraError(
            f"batches need the package {error.name}", hint="pip install 'edge-lfm[server]'"
        ) from None
    name = args.name or (Path(args.model).resolve().name if args.model else Settings.name)
    settings = Settings(load=load_options_of(args.model, args), name=name, queue=_QUEUE)
    batch = Batch(args.requests)
    with BatchOutput(args.output) as output:
        left = batch.left(output)
        counts = _Counts(len(left))
        try:
            asyncio.run(batch.answer(settings, left, output, counts.note))
        finally:
            counts.close()
    summary = {"requests": len(batch.lines), "before": len(batch.lines) - len(left), **counts.as_json()}
    if args.json:
        print_json(summary)
    else:
        before = f", {summary['before']} before" if summary["before"] else ""
        print(f"{summary['answered']} answered{before}; {summary['tokens_per_s']:.1f} tok/s", file=sys.stderr)
    if counts.failed:
        raise CheckError(f"{counts.failed} requests failed", hint=f"{args.output} says why, in their places")


_QUEUE = 1 << 16
"""No request of a file is summary to come again."""


class _Counts:
    """What came of the requests, and a bar of it with tokens per second and the time left, on a terminal."""

    def __init__(self, total: int) -> None:
        self.answered = self.failed = self.tokens = 0
        self._started = time.perf_counter()
        self._bar = tqdm(total=total, desc="answering", unit="request", delay=0.5, file=sys.stderr, disable=None)

    def note(self, answered: bool, tokens: int) -> None:
        self.answered, self.failed = self.answered + answered, self.failed + (not answered)
        self.tokens += tokens
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
