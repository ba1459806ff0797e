"""What `edge-lfm bench` is told."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_lfm.cli.parsers.options import add_backend_argument, add_model, find_model

EXAMPLE = "edge-lfm bench lfm2-24b-int4 -p 512 -n 128 -t 1,2 --md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser, find_model)
    parser.add_argument("-p", "--prompt", default="512", metavar="N,...", help="tokens of the prefill tests")
    parser.add_argument("-n", "--generate", default="64", metavar="N,...", help="tokens of the decode tests")
    parser.add_argument("-d", "--depth", default="0", metavar="N,...", help="tokens of context before each test")
    parser.add_argument("-t", "--threads", default="", metavar="N,...", help="default: the cores of this machine")
    parser.add_argument("-r", "--repeat", type=int, default=5, metavar="N", help="runs of each test")
    parser.add_argument("--ram", default="all", metavar="SIZE,...", help="budgets to try, like 4G,8G,all (default all)")
    parser.add_argument("--paging", default="auto", metavar="HOW", help="of a budget: read, map or auto (= read)")
    parser.add_argument("--draft", metavar="FOLDER", help="a drafter: tests decode with its drafts as well")
    add_backend_argument(parser)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a roofline, or hits by layer when paged")
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--json", action="store_true", help="print JSON")
    style.add_argument("--md", action="store_true", help="print a Markdown table")
