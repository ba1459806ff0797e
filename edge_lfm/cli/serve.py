"""`edge-lfm serve`: an OpenAI-compatible server for one model, on this machine only unless told otherwise."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from edge_lfm.api import bound_heap
from edge_lfm.cli.arguments import add_model, add_model_arguments, load_options_of
from edge_lfm.errors import MissingExtraError, UsageError

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


def run(args: argparse.Namespace) -> None:
    try:
        from edge_lfm.server.logs import set_up_logging
        from edge_lfm.server.serve import serve
        from edge_lfm.server.settings import Defaults, Settings
    except ImportError as error:
        raise MissingExtraError(f"the server needs the package {error.name}", extra="server") from None
    for name, value in (("--queue", args.queue), ("--unload-after", args.unload_after), ("--grace", args.grace)):
        if not 0 <= value <= 1e6:
            raise UsageError(f"{name} is {value}", hint="it must be 0..1000000")
    settings = Settings(
        load=load_options_of(args.model, args),
        name=args.name or (Path(args.model).resolve().name if args.model else Settings.name),
        aliases=tuple(args.alias),
        strict_model=args.strict_model,
        defaults=Defaults(args.temperature, args.max_tokens, args.max_tokens_cap, args.system),
        api_key=args.api_key or os.environ.get("EDGE_LFM_API_KEY") or None,
        allowed_hosts=tuple(args.allow_host),
        cors_origins=tuple(args.cors_origin),
        queue=args.queue,
        unload_after_s=args.unload_after,
        grace_s=args.grace,
    )

    def ready(address: str) -> None:
        if args.json:
            print(json.dumps({"address": address, "model": settings.name}), flush=True)
        else:
            print(
                f"{settings.name} listens on {address} (OpenAI API under {address}/v1, a page at {address}/)",
                flush=True,
            )
            print("Ctrl-C ends", file=sys.stderr)

    bound_heap()
    set_up_logging(args.log_level)
    serve(settings, args.host, args.port, args.insecure, ready, args.restart)
