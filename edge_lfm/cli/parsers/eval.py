"""What `edge-lfm eval` is told."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_lfm.cli.parsers.options import add_model, find_model

DEMO_TASKS = Path("demo")
"""`--tasks` without a file: those of the demo model. Told by identity, as a file may have any name."""
EXAMPLE = "edge-lfm eval lfm2-24b --against LFM2-24B-A2B --text wiki.test.raw --report eval.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, find_model)
    parser.add_argument("--against", type=Path, metavar="REF", help="packed model or checkpoint to compare with")
    parser.add_argument("--text", type=Path, action="append", default=[], metavar="FILE", help="UTF-8 text; repeatable")
    parser.add_argument("--windows", type=int, default=64, metavar="N", help="windows of each text (default 64)")
    parser.add_argument("--window", type=int, default=512, metavar="N", help="tokens of a window (default 512)")
    parser.add_argument(
        "--tasks",
        type=Path,
        nargs="?",
        const=DEMO_TASKS,
        metavar="FILE",
        help="also answer task samples and check them (default: those of the demo model)",
    )
    parser.add_argument(
        "--run-code",
        action="store_true",
        help="judge tasks with code too: run what the model wrote, in a process that the kernel lets do nothing else",
    )
    parser.add_argument("--report", type=Path, metavar="FILE.html", help="write a page with tables and plots")
    parser.add_argument("--card", action="store_true", help="put the figures into the model's README.md")
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: the cores of this machine)")
    parser.add_argument("--json", action="store_true", help="print JSON")
