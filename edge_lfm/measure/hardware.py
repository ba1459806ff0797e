"""Measuring this machine: memory and int8 arithmetic by the kernels' own instructions, storage by direct reads."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_lfm.errors import EdgeLfmError
from edge_lfm.kernels.load.library import Kernels
from edge_lfm.kernels.load.team import Team
from edge_lfm.measure.bench import int8_peak, read_bandwidth
from edge_lfm.memory.reader import BlockReader, Slots

_STREAM_BYTES = 512 << 20
_BLOCK_BYTES, _BLOCKS = 5 << 20, 48
_AT_ONCE = 8
_ROUNDS = 3


@dataclass(frozen=True)
class Bare:
    """A team and kernels, without a model."""

    team: Team
    kernels: Kernels


@dataclass(frozen=True)
class Measured:
    """This machine, with so many threads. storage_gbps: None where it cannot be measured."""

    isa: str
    threads: int
    read_gbps: float
    int8_gops: float
    storage_gbps: float | None


def measure_machine(kernels: Kernels, threads: int, folder: Path) -> Measured:
    """Best of three rounds of each, in about two seconds.

    Storage is measured on the model file in `folder`, or else on 240 MB that are written there for a moment.
    """
    team = Team(threads)
    try:
        bare, stream = Bare(team, kernels), np.ones(_STREAM_BYTES, np.uint8)
        reads = max(read_bandwidth(bare, stream) for _ in range(_ROUNDS))
        peak = max(int8_peak(bare) for _ in range(_ROUNDS))
    finally:
        team.close()
    return Measured(kernels.isa.name, threads, reads, peak, storage_rate_of(folder))


def storage_rate_of(folder: Path) -> float | None:
    """GB/s of reading 5 MB blocks in random order past the page cache; None if there is nothing to read from."""
    model = folder / "model.safetensors"
    try:
        if model.exists() and model.stat().st_size >= _BLOCKS * _BLOCK_BYTES:
            return max(_read_blocks(model) for _ in range(_ROUNDS))
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".edge-lfm-probe-") as file:
            for _ in range(_BLOCKS):
                file.write(os.urandom(_BLOCK_BYTES))
            file.flush()
            os.fsync(file.fileno())
            return max(_read_blocks(Path(file.name)) for _ in range(_ROUNDS))
    except (OSError, EdgeLfmError):
        return None


def _read_blocks(path: Path) -> float:
    """GB/s of reading as many blocks, eight asked for at a time, into memory that is there already."""
    reader, slots = BlockReader(path), Slots(_AT_ONCE, _BLOCK_BYTES)
    try:
        slots.array()[::4096] = 1
        order = np.random.default_rng().permutation(path.stat().st_size // _BLOCK_BYTES)[:_BLOCKS]
        started = time.perf_counter()
        for first in range(0, len(order), _AT_ONCE):
            here = order[first : first + _AT_ONCE]
            addresses = [slots.address_of(n) for n in range(len(here))]
            reads = [
                reader.read(int(n) * _BLOCK_BYTES, _BLOCK_BYTES, at) for n, at in zip(here, addresses, strict=True)
            ]
            for read in reads:
                read.result()
        return len(order) * _BLOCK_BYTES / (time.perf_counter() - started) / 1e9
    finally:
        reader.close()
