"""Memory of one long conversation, as planned and as resident: python benchmarks/state_memory.py NAME [--context N].

The state is filled as a prompt of that length fills it, with its places to go back to; no weights are needed.
"""

from __future__ import annotations

import argparse
import os
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_lfm.architectures import read_shape
from edge_lfm.engine.feeds import Feed, Logits, run_alone
from edge_lfm.engine.sequence import TokenSequence
from edge_lfm.memory.caches import CacheSizes, position_bytes
from edge_lfm.memory.scratch import CHUNK
from edge_lfm.model.kv_cache import places
from edge_lfm.model.state import State
from edge_lfm.quantize.families import family_config

MIB = 1 << 20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fill(feeds: Sequence[Feed]) -> list[Logits]:
    """What a step does to its states, without a model: every entry of its tokens is written."""
    for feed in feeds:
        state, count = feed.state, len(feed.token_ids)
        state.make_way(count)
        state.note(feed.noted, count)
        for (n, name), cache in state.caches.items():
            cache[places(name, np.arange(state.position, state.position + count) % state.room(n))] = 1
        state.position += count
    return [np.zeros((0, 1), np.float32) for _ in feeds]


def measure(state: State) -> tuple[int, int, int]:
    """Resident bytes of a sequence, of them those of its places to go back to, and the number of these."""
    before, sequence, ids = resident_bytes(), TokenSequence(state), array("i", [1] * state.context)
    while (first := len(sequence.ids)) < len(ids):
        run_alone(sequence.read(ids[first : first + CHUNK], last=False), fill)
    kept = sum(checkpoint.nbytes for checkpoint in sequence.checkpoints.values())
    return resident_bytes() - before, kept, len(sequence.checkpoints)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a published name, as of edge-lfm fit")
    parser.add_argument("--context", type=int, default=32768)
    args = parser.parse_args()
    shape = read_shape(family_config(args.model))
    for kv_dtype in ("float16", "int8"):
        sizes = CacheSizes(shape, args.context, kv_dtype, CHUNK)
        found, kept, places_kept = measure(State(shape, args.context, kv_dtype))
        every = args.context * sum(position_bytes(a, kv_dtype) for a in shape.keeping.values())
        print(
            f"{args.model} {kv_dtype:8} {sizes.token_bytes:6,} B a token; planned {sizes.nbytes / MIB:.1f} MiB, with "
            f"all keys of all layers {every / MIB:.1f}; resident {found / MIB:.1f} MiB, of them {kept / MIB:.1f} in "
            f"{places_kept} places to go back to"
        )


if __name__ == "__main__":
    main()
