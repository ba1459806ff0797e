"""`edge-lfm serve`: an OpenAI-compatible server for one model, on this machine only unless told otherwise."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from edge_lfm.api import bound_heap
from edge_lfm.cli.arguments import load_options_of
from edge_lfm.errors import MissingExtraError, UsageError


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
