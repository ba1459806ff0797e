"""What `edge-lfm completion` is told."""

from __future__ import annotations

import argparse

EXAMPLE = "edge-lfm completion bash"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"), help='as in: eval "$(edge-lfm completion bash)"')
