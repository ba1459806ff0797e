"""What `edge-lfm serve` is told."""

from __future__ import annotations

import argparse

from edge_lfm.cli.parsers.options import add_model, add_model_arguments

EXAMPLE = "edge-lfm serve lfm2-24b-int4 --port 8080"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_model_arguments(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8080, help="port (default 8080; 0 takes a free one)")
    parser.add_argument("--name", help="the model's name for clients (default: the folder's)")
    parser.add_argument("--alias", action="append", default=[], metavar="NAME", help="another name (may be repeated)")
    parser.add_argument("--strict-model", action="store_true", help="refuse requests for a model of another name")
    parser.add_argument("--api-key", metavar="KEY", help="ask clients for this key (default: EDGE_LFM_API_KEY)")
    parser.add_argument("--insecure", action="store_true", help="listen on a network without a key")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="serve under this name too")
    parser.add_argument("--cors-origin", action="append", default=[], metavar="URL", help="let this web page in")
    parser.add_argument("--temp", dest="temperature", type=float, metavar="T", help="temperature where none is asked")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="the most tokens of an answer where none are asked")
    parser.add_argument("--max-tokens-cap", type=int, metavar="N", help="the most tokens of any answer")
    parser.add_argument("--system", metavar="TEXT", help="the system message of conversations that have none")
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, default="info", help="what is logged (default: requests too)")
    parser.add_argument("--queue", type=int, default=64, metavar="N", help="requests that may wait (default 64)")
    parser.add_argument(
        "--unload-after", type=float, default=0, metavar="S", help="give the model up when idle so long"
    )
    parser.add_argument("--grace", type=float, default=10, metavar="S", help="time for answers at the end (default 10)")
    parser.add_argument("--restart", action="store_true", help="start again when it dies of a fault, within seconds")
    parser.add_argument("--json", action="store_true", help="say where it listens as one JSON line")
