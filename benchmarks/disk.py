"""How fast a disk reads blocks of a file in random order, past the page cache and through it, in turns.

    python benchmarks/disk.py MODEL/model.safetensors --block 2621440 --in-flight 1,2,4,8

The file must be larger than what the page cache keeps of it: its pages are dropped before each round. Buffered reads
have the system's readahead. Rates are medians of the rounds; no other program should read meanwhile.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PAGE = 4096


class Blocks:
    """Blocks of `nbytes` of a file, at random places; `direct`: past the page cache."""

    def __init__(self, path: Path, nbytes: int, direct: bool, in_flight: int) -> None:
        self.nbytes, self.in_flight = nbytes // _PAGE * _PAGE, in_flight
        self.file = os.open(path, os.O_RDONLY | (os.O_DIRECT if direct else 0))
        self.places = (os.fstat(self.file).st_size - self.nbytes) // _PAGE
        if self.places < 1:
            raise SystemExit(f"{path} is smaller than a block of {nbytes} bytes: name a larger file")
        self.buffers = [mmap.mmap(-1, self.nbytes) for _ in range(in_flight)]

    def read(self, n: int, place: int) -> None:
        view, done = memoryview(self.buffers[n]), 0
        while done < self.nbytes:
            done += os.preadv(self.file, [view[done:]], place * _PAGE + done)

    def rate(self, count: int, rng: random.Random) -> float:
        """GB/s of `count` blocks, as many at a time as may be in flight."""
        os.posix_fadvise(self.file, 0, 0, os.POSIX_FADV_DONTNEED)
        places = [rng.randrange(self.places) for _ in range(count)]
        started = time.perf_counter()
        with ThreadPoolExecutor(self.in_flight) as pool:
            for first in range(0, count, self.in_flight):
                list(pool.map(self.read, range(self.in_flight), places[first : first + self.in_flight]))
        return count * self.nbytes / 1e9 / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--block", type=int, default=5 << 19, metavar="BYTES", help="of a read (default: 2.5 MiB)")
    parser.add_argument("--in-flight", default="1,2,4", metavar="N,N")
    parser.add_argument("--count", type=int, default=64, help="blocks of a round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rng = random.Random(0)
    print("| in flight | direct, GB/s | buffered, GB/s |\n|---|---|---|")
    for in_flight in map(int, args.in_flight.split(",")):
        pair = [Blocks(args.file, args.block, direct, in_flight) for direct in (True, False)]
        rounds = [[blocks.rate(args.count, rng) for blocks in pair] for _ in range(args.rounds)]
        direct, buffered = (statistics.median(rates) for rates in zip(*rounds, strict=True))
        print(f"| {in_flight} | {direct:.2f} | {buffered:.2f} |", flush=True)


if __name__ == "__main__":
    main()
