"""Micro-benchmarks of single kernels, in the shapes of LFM2-24B-A2B.

    pip install pytest-benchmark
    pytest benchmarks/kernels.py --benchmark-columns=median,min,max

EDGE_LFM_ISA chooses the tier. One thread. Rates stand in `extra_info` (--benchmark-json): GB/s of weights for
one token, GOPS for many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec.layout import (
    CONTEXT,
    LAYER,
    MATRIX,
    PRODUCT,
    ROW,
    STATE,
    SYNC_BYTES,
    attention_scratch_bytes,
    scratch_bytes,
)
from edge_lfm.kernels.spec.schemes import SCHEMES, Scheme

HIDDEN = 2048


class Step:
    """A context record with one thread; arrays given as fields are kept alive."""

    def __init__(self, **fields: Any) -> None:
        self.record, self.sync, self.fields = np.zeros(1, CONTEXT), np.zeros(SYNC_BYTES // 8, np.int64), fields
        self.record["threads"], self.record["sync"] = 1, self.sync.ctypes.data
        self.record["embed_scale"] = 1.0
        for name, value in fields.items():
            self.record[name] = value.ctypes.data if isinstance(value, np.ndarray) else value

    @property
    def address(self) -> int:
        self.sync[:] = 0
        return self.record.ctypes.data


@pytest.mark.parametrize("cols", [HIDDEN, 4096])
@pytest.mark.parametrize("tokens", [1, 5, 12, 96])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_multiply(benchmark: Any, scheme: Scheme, tokens: int, cols: int) -> None:
    """Weights from memory for one token (256 MB), from cache for many."""
    rows = 16 * (256_000_000 // scheme.tile_bytes(cols) if tokens == 1 else 24)
    kernels, weights = load_kernels(), np.ones(scheme.matrix_bytes(rows, cols), np.uint8)
    matrix = np.zeros(1, MATRIX)
    matrix["scheme"], matrix["address"], matrix["rows"], matrix["cols"] = scheme.id, weights.ctypes.data, rows, cols
    f, q = np.ones((tokens, cols), np.float32), np.ones((tokens, cols), np.int8)
    s, out = np.zeros((tokens, cols // 32, 4), np.float32), np.zeros((tokens, rows), np.float32)
    step, area = Step(), np.zeros(scratch_bytes(cols) + 64, np.uint8)
    area = area[-area.ctypes.data % 64 :]  # a cache line's start, as in the runner
    product = np.zeros(1, PRODUCT)
    for name, array in (("matrix", matrix), ("f", f), ("q", q), ("s", s), ("out", out)):
        product[name] = array.ctypes.data
    product["out_stride"], product["tokens"] = rows * 4, tokens
    benchmark(lambda: kernels.multiply(step.address, product.ctypes.data, area.ctypes.data))
    seconds = benchmark.stats["median"]
    benchmark.extra_info["GB/s"] = weights.nbytes / seconds / 1e9
    benchmark.extra_info["GOPS"] = 2 * rows * cols * tokens / seconds / 1e9


@pytest.mark.parametrize("kept", ["float16", "int8"])
@pytest.mark.parametrize("positions", [512, 8192])
def test_attention(benchmark: Any, positions: int, kept: str) -> None:
    """One token, 32 query heads on 8 kv heads."""
    heads, kv, width, dtype = 32, 8, 64, np.float16 if kept == "float16" else np.int8
    keys, values = np.ones((kv, positions, width), dtype), np.ones((kv, positions, width), dtype)
    scales = np.ones((kv, positions), np.float32)
    state = np.zeros(1, STATE)
    state["keys"], state["values"] = keys.ctypes.data, values.ctypes.data
    state["key_scales"] = state["value_scales"] = scales.ctypes.data
    state["capacity"], state["is_int8"] = positions, kept == "int8"
    rows = np.zeros(1, ROW)
    rows["position"], rows["states"] = positions - 1, state.ctypes.data
    layer = np.zeros(1, LAYER)
    layer["heads"], layer["kv_heads"], layer["head_dim"] = heads, kv, width
    step = Step(tokens=1, rows=rows, wide=np.ones((heads + 2 * kv) * width, np.float32),
                mixed=np.zeros(heads * width, np.float32), mixed_q=np.zeros(heads * width, np.int8),
                mixed_s=np.zeros(heads * width // 8, np.float32))  # fmt: skip
    kernels, scratch = load_kernels(), np.zeros(attention_scratch_bytes(width), np.uint8)
    benchmark(lambda: kernels.attend_tokens(step.address, layer.ctypes.data, 0, scratch.ctypes.data))
    benchmark.extra_info["GB/s"] = 2 * keys.nbytes / benchmark.stats["median"] / 1e9


@pytest.mark.parametrize("tokens", [1, 128])
def test_short_conv(benchmark: Any, tokens: int) -> None:
    taps, past = np.ones((3, HIDDEN), np.float32), np.zeros((2, HIDDEN), np.float32)
    layer, state = np.zeros(1, LAYER), np.zeros(1, STATE)
    layer["conv_width"], layer["taps"], state["conv"] = 3, taps.ctypes.data, past.ctypes.data
    rows = np.zeros(tokens, ROW)
    rows["states"], rows["noted"] = state.ctypes.data, -1
    step = Step(hidden=HIDDEN, tokens=tokens, rows=rows, wide=np.ones((tokens, 3 * HIDDEN), np.float32),
                mixed=np.zeros((tokens, HIDDEN), np.float32), mixed_q=np.zeros((tokens, HIDDEN), np.int8),
                mixed_s=np.zeros((tokens, HIDDEN // 8), np.float32))  # fmt: skip
    kernels = load_kernels()
    benchmark(lambda: kernels.conv_tokens(step.address, layer.ctypes.data, 0))


@pytest.mark.parametrize("tokens", [1, 128])
def test_norm(benchmark: Any, tokens: int) -> None:
    weight = np.ones(HIDDEN, np.float32)
    step = Step(tokens=tokens, hidden=HIDDEN, norm_eps=1e-5, x=np.ones((tokens, HIDDEN), np.float32),
                normed=np.zeros((tokens, HIDDEN), np.float32), normed_q=np.zeros((tokens, HIDDEN), np.int8),
                normed_s=np.zeros((tokens, HIDDEN // 8), np.float32))  # fmt: skip
    kernels = load_kernels()
    benchmark(lambda: kernels.norm_tokens(step.address, weight.ctypes.data, 0))
