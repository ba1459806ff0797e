"""`edge-lfm bench`: prefill and decode speed, beside what the hardware can do in the same minute."""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import Any

from edge_lfm.api import Model
from edge_lfm.cli.arguments import print_json
from edge_lfm.errors import UsageError
from edge_lfm.measure.bench import BenchReport, in_cache, measure
from edge_lfm.model.packed_model import PackedModel


def run(args: argparse.Namespace) -> None:
    reports = []
    counts: list[int | None] = [*_numbers(args.threads, "-t", 1)]
    prompts, generates, depths = (
        _numbers(args.prompt, "-p", 1),
        _numbers(args.generate, "-n", 1),
        _numbers(args.depth, "-d", 0),
    )
    longest = max([0, *depths]) + max([1, *prompts, *generates]) + 1
    for threads, ram in itertools.product(counts or [None], args.ram.split(",")):
        budget = None if ram == "all" else ram
        context = longest if budget else None
        load = {"ram": budget, "threads": threads, "context": context, "paging": args.paging, "backend": args.backend}
        load |= {"draft": args.draft}
        with Model.load(args.model, **load) as model:
            if args.plot and not isinstance(model.files, PackedModel):
                raise UsageError("a plot needs the bytes per token, which only packed models tell", "leave --plot out")
            reports.append(
                measure(
                    model.files,
                    model.backend,
                    prompts,
                    generates,
                    depths,
                    args.repeat,
                    lambda line: print(line, file=sys.stderr, flush=True),
                    ram,
                )
            )
    if args.plot:
        from edge_lfm.cli.bench_plots import draw

        draw(reports, args.plot)
    if args.json:
        print_json({"results": [row for report in reports for row in report.rows()]})
    else:
        _print_table(reports, "| " if args.md else "")


def _numbers(text: str, flag: str, least: int) -> list[int]:
    try:
        values = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        values = [-1]
    if any(value < least for value in values):
        raise UsageError(f"{flag} {text}", hint=f"give whole numbers of at least {least}, like 128,512")
    return values


def _share(row: dict[str, Any]) -> str:
    """Of the limit; a cache has none here."""
    if not row["bound"]:
        return ""
    return "in cache" if in_cache(row) else f"{row['share_of_limit']:.0%}"


def _print_table(reports: list[BenchReport], edge: str) -> None:
    names = ("test", "depth", "threads", "ram", "tok/s", "min", "max", "share of limit", "limit", "hits", "MB/tok")
    lines = [names, tuple("---" for _ in names)] if edge else [names]
    for report in reports:
        for row in report.rows():
            limit = f"{row['int8_gops']:.0f} GOPS" if row["bound"] == "compute" else ""
            limit = f"{row['read_gbps']:.1f} GB/s" if row["bound"] == "bandwidth" else limit
            limit = f"{row['storage_gbps']:.2f} GB/s disk" if row["bound"] == "storage" else limit
            lines.append(
                (
                    row["test"],
                    row["depth"],
                    row["threads"],
                    row["ram"],
                    f"{row['tokens_per_second']:.1f}",
                    f"{row['min']:.1f}",
                    f"{row['max']:.1f}",
                    _share(row),
                    limit,
                    f"{row['hit_rate']:.0%}" if "hit_rate" in row else "",
                    f"{row['bytes_read_per_token'] / 1e6:.0f}" if "hit_rate" in row else "",
                )
            )
    for line in lines:
        print(
            edge
            + (" | " if edge else "  ").join(str(cell).rjust(0 if edge else 9) for cell in line)
            + (" |" if edge else "")
        )
    first = reports[0]
    print(
        f"\n{first.model}: {first.isa}, "
        + (f"{first.bytes_per_token / 1e9:.3f} GB per token, " if first.bytes_per_token else "")
        + f"peak memory {max(r.peak_memory_bytes for r in reports) / 1e9:.2f} GB"
    )
