"""A chunk of a prompt in latent attention, absorbed and not: what each way takes of one layer, on one thread.

    python benchmarks/unabsorbed.py --depth 0,2048,8192 --tokens 512

At GLM-4.7-Flash's size. Absorbed, as the model runs: matmuls that move queries into the space of the latents and values
out of it, and attention to the latents. Not absorbed: keys and values of all heads made of all latents by matmuls, and
attention of 20 heads of 256 values to those. Turning them into a cache's float16 and order is left out, in favour of
this way. All four run in turn; medians of rounds. EDGE_LFM_ISA chooses the tier.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import attention
import latents
import numpy as np

from edge_lfm.architectures import read_shape
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.layout import MATRIX, PRODUCT, scratch_bytes
from edge_lfm.kernels.spec.schemes import SCHEMES
from edge_lfm.quantize.families import family_config
from edge_lfm.shape import Attention
from kernels import Step


class Matmul:
    """`tokens` inputs of `cols` values times a matrix of `rows`."""

    def __init__(self, scheme: str, rows: int, cols: int, tokens: int) -> None:
        kind = SCHEMES[scheme]
        self.weights = np.ones(kind.matrix_bytes(rows, cols), np.uint8)
        self.matrix, self.product, self.step = np.zeros(1, MATRIX), np.zeros(1, PRODUCT), Step()
        self.arrays = {
            "f": np.ones((tokens, cols), np.float32), "q": np.ones((tokens, cols), np.int8),
            "s": np.zeros((tokens, cols // 32, 4), np.float32), "out": np.zeros((tokens, rows), np.float32),
            "matrix": self.matrix,
        }  # fmt: skip
        self.matrix["scheme"], self.matrix["address"] = kind.id, self.weights.ctypes.data
        self.matrix["rows"], self.matrix["cols"] = rows, cols
        for name, array in self.arrays.items():
            self.product[name] = array.ctypes.data
        self.product["out_stride"], self.product["tokens"] = rows * 4, tokens
        area = np.zeros(scratch_bytes(cols) + 64, np.uint8)
        self.area = area[-area.ctypes.data % 64 :]

    def run(self) -> float:
        """Seconds."""
        started = time.perf_counter()
        load_kernels().multiply(self.step.address, self.product.ctypes.data, self.area.ctypes.data)
        return time.perf_counter() - started


def ways(kept: str, scheme: str, tokens: int, depth: int) -> dict[str, list[Callable[[], float]]]:
    """Of both ways, what is run in turn: the matmuls, and attention."""
    latent = read_shape(family_config("glm-4.7-flash")).latents[0]
    heads, seen, width = latent.heads, depth + tokens, latent.plain + latent.rope.width
    moved = Matmul(scheme, heads * latent.rank, latent.plain, tokens)
    taken = Matmul(scheme, heads * latent.value, latent.rank, tokens)
    keys = Matmul(scheme, heads * latent.plain, latent.rank, seen)
    values = Matmul(scheme, heads * latent.value, latent.rank, seen)
    absorbed = latents.Work(heads, kept, tokens, depth, 1, 1)
    whole = attention.Work(Attention(heads, heads, width, None, "none"), "float16", tokens, depth, 1, 1)
    return {
        "absorbed": [lambda: moved.run() + taken.run(), absorbed.run],
        "not absorbed": [lambda: keys.run() + values.run(), whole.run],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", default="0,2048,8192")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--kv-dtype", default="float16")
    parser.add_argument("--scheme", default="codebook4_g16")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print("| depth | way | matmuls, ms | attention, ms | together, ms |\n|---|---|---|---|---|")
    for depth in (int(n) for n in args.depth.split(",")):
        parts = ways(args.kv_dtype, args.scheme, args.tokens, depth)
        found: dict[str, list[list[float]]] = {way: [] for way in parts}
        for _ in range(args.rounds):
            for way, runs in parts.items():
                found[way].append([run() * 1e3 for run in runs])
        for way, rounds in found.items():
            cells = [statistics.median(column) for column in zip(*rounds, strict=True)]
            together = statistics.median(sum(each) for each in rounds)
            print(f"| {depth} | {way} | {cells[0]:.1f} | {cells[1]:.1f} | {together:.1f} |", flush=True)


if __name__ == "__main__":
    main()
