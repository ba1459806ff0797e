"""`edge-lfm devices`: the devices that `fit` knows; `--detect`: what this machine is."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_lfm.cli.arguments import gigabytes, print_json
from edge_lfm.devices.profiles import profiles
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.machine.memory import available_memory
from edge_lfm.machine.processors import choose_threads, cpu_quota, physical_cores
from edge_lfm.machine.thermal import temperatures
from edge_lfm.measure.hardware import measure_machine
from edge_lfm.paths import cache_folder


def run(args: argparse.Namespace) -> None:
    if not args.detect:
        if args.json:
            print_json({name: asdict(device) for name, device in profiles().items()})
            return
        for name, device in profiles().items():
            sizes = ", ".join(f"{name}-{m:g}g" for m in device.memory_gb)
            print(f"{name:15} {device.name}: {device.core}, {device.read_gbps:g} GB/s\n{'':15} {sizes}")
        return
    print("measuring ...", file=sys.stderr)
    facts = detect()
    if args.json:
        print_json(facts)
        return
    for name, value in facts.items():
        shown = gigabytes(value) if name.endswith("_bytes") else value
        print(f"{name.removesuffix('_bytes'):20} {shown}")


def detect() -> dict[str, Any]:
    """What this machine is, and does."""
    measured = measure_machine(load_kernels(), choose_threads(), cache_folder())
    return {
        "processor": processor_name(),
        "isa": measured.isa,
        "cpus": len(os.sched_getaffinity(0)),
        "performance_cores": physical_cores(),
        "cpu_quota": cpu_quota(),
        "threads": measured.threads,
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "available_bytes": available_memory(),
        "page_kib": os.sysconf("SC_PAGE_SIZE") // 1024,
        "read_gbps": round(measured.read_gbps, 2),
        "int8_gops": round(measured.int8_gops),
        "storage_gbps": None if measured.storage_gbps is None else round(measured.storage_gbps, 2),
        "temperatures": temperatures(),
    }


def processor_name() -> str:
    """As the operating system tells it."""
    for path, key in (("/proc/device-tree/model", ""), ("/proc/cpuinfo", "model name")):
        try:
            text = Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if not key:
            return text.strip("\0\n ")
        for line in text.splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return platform.machine()
