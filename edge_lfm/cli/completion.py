"""`edge-lfm completion SHELL`: a script by which a shell completes verbs and options."""

from __future__ import annotations

import argparse

from edge_lfm.cli.parsing import make_parser
from edge_lfm.errors import MissingExtraError


def run(args: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError:
        raise MissingExtraError("completion needs the package shtab", extra="completion") from None
    print(shtab.complete(make_parser(), args.shell))
