"""`edge-lfm compile`: the kernels as a shared object for another processor, or for this one."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict

from edge_lfm.cli.arguments import gigabytes, print_json
from edge_lfm.cli.parsers.compile import EXAMPLE
from edge_lfm.devices.prebuild import prebuild
from edge_lfm.devices.targets import TARGETS, find_target
from edge_lfm.errors import UsageError
from edge_lfm.kernels.spec.isa import TIERS


def run(args: argparse.Namespace) -> None:
    if args.list:
        list_targets(args.json)
        return
    if not args.target or not args.output:
        raise UsageError("--target and -o are needed", hint=f"for example: {EXAMPLE}")
    targets = {target.name: target for target in map(find_target, args.target)}
    made = []
    for target in targets.values():
        print(f"compiling for {target.name} (about 15 s) ...", file=sys.stderr)
        made.append(prebuild(target, args.output))
    if args.json:
        print_json([asdict(manifest) for manifest in made])
        return
    for manifest in made:
        path = args.output / manifest.file
        print(f"{path}  {gigabytes(path.stat().st_size)}, tier {manifest.isa}, LLVM's {manifest.cpu}")


def list_targets(as_json: bool) -> None:
    if as_json:
        targets = [*TARGETS, *(find_target(tier.name) for tier in TIERS)]
        print_json(
            [{"name": t.name, "tier": t.isa.name, "machine": t.isa.machine, "serves": t.serves} for t in targets]
        )
        return
    for target in TARGETS:
        print(f"{target.name:12} {target.isa.name:11} {target.serves}")
    print(f"and each tier by its name: {', '.join(tier.name for tier in TIERS)}; and each of: edge-lfm devices")
