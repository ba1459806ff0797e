"""Runs in a copy of the kernels that has signs in its table: packs, multiplies, looks up and encodes with them."""

from __future__ import annotations

import numpy as np
from test_kernels import matrix_record, run_multiply

from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.spec import ref
from edge_lfm.kernels.spec.schemes import SCHEMES
from edge_lfm.kernels.spec.tiles import definition, pack_tiles, unpack_tiles
from edge_lfm.quantize.pack import encode

rng, scheme, kernels = np.random.default_rng(1), SCHEMES["signs_g64"], load_kernels()
x = rng.standard_normal((37, 192)).astype(np.float32)
weights = definition(scheme).round_weights(x, scheme)
packed = pack_tiles(weights, scheme)
assert packed.nbytes == scheme.matrix_bytes(37, 192) == 3 * (64 + 3 * 128)
assert np.array_equal(unpack_tiles(packed, scheme, 37, 192).values(), weights.values())

for tokens in (1, 2, 5, 67):
    inputs = rng.standard_normal((tokens, 192)).astype(np.float32)
    expected = ref.multiply(weights, inputs)
    found = run_multiply(kernels, weights, scheme, inputs)
    assert np.abs(found - expected).max() <= 3e-6 * np.abs(expected).max(), tokens

out, record = np.zeros(192, np.float32), matrix_record(packed, scheme, 37, 192)
for row in (0, 15, 16, 36):
    kernels.unpack_row(record.ctypes.data, row, out.ctypes.data)
    assert np.array_equal(out, weights.values()[row])

encoded, error = encode(x, scheme, kernels)
values = unpack_tiles(encoded, scheme, 37, 192).values()
assert np.abs(values - weights.values()).max() < 1e-6
assert abs(error.error / np.square(values - x, dtype=np.float64).sum() - 1) < 1e-4
