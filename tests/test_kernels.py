"""Every compiled kernel against its NumPy definition, on every tier of this machine's architecture.

Tolerances: integer results and int8 activations exactly; float32 sums to 3e-6 of the largest output (the
order of additions differs); exp to 3e-7.
"""

from __future__ import annotations

import itertools
from operator import attrgetter

import numpy as np
import pytest
from emulated import load_emulated
from spelled_out import TESTED, load_spelled_out

from edge_lfm.errors import IsaError
from edge_lfm.kernels.load.library import Kernels, load_kernels
from edge_lfm.kernels.load.team import Team
from edge_lfm.kernels.spec import ref
from edge_lfm.kernels.spec.definitions.codebook import Coded
from edge_lfm.kernels.spec.definitions.microscaled import Scaled
from edge_lfm.kernels.spec.isa import TIERS, find_isa, runnable_tiers, select_isa
from edge_lfm.kernels.spec.layout import (
    CONTEXT,
    ERROR,
    EXPERTS_READ,
    LAYER,
    MATRIX,
    PRODUCT,
    RAISED,
    ROW,
    STATE,
    SYNC_BYTES,
    attention_scratch_bytes,
    scratch_bytes,
)
from edge_lfm.kernels.spec.routing import route, scores_of
from edge_lfm.kernels.spec.schemes import (
    FLOAT32,
    INT8_G32,
    MXFP4_G32,
    SCHEMES,
    Codebook,
    Microscaled,
    Pairs,
    Scheme,
)
from edge_lfm.kernels.spec.tiles import definition, pack_tiles, unpack_tiles
from edge_lfm.model.rotary import rope_table
from edge_lfm.quantize.pack import interleave, pack_biases
from edge_lfm.shape import Gated, Rope, Router

pytestmark = pytest.mark.slow

SUM_TOLERANCE = 3e-6
ALL, QUANTIZED = list(SCHEMES.values()), [scheme for scheme in SCHEMES.values() if scheme.quantized]


@pytest.fixture(scope="module", params=[tier.name for tier in TESTED])
def kernels(request: pytest.FixtureRequest) -> Kernels:
    tier = find_isa(request.param)
    if tier.has_byte_tiles:
        return load_emulated()
    return load_kernels(tier) if tier in runnable_tiers() else load_spelled_out(tier)


class Step:
    """A context record for single phases, and the arrays behind it."""

    def __init__(self, threads: int = 1, **fields: object) -> None:
        self.keep: list[np.ndarray] = []
        self.context = np.zeros(1, CONTEXT)
        self.sync = np.zeros(SYNC_BYTES // 8, np.int64)
        self.set(threads=threads, sync=self.sync, embed_scale=1.0, **fields)

    def set(self, **fields: object) -> None:
        for name, value in fields.items():
            self.context[name] = (
                self.address_of(value) if isinstance(value, np.ndarray) and value.dtype != MATRIX else value
            )

    def address_of(self, array: np.ndarray) -> int:
        self.keep.append(array)
        return array.ctypes.data

    @property
    def address(self) -> int:
        self.sync[:] = 0
        return self.context.ctypes.data


def matrix_record(
    packed: np.ndarray, scheme: Scheme, rows: int, cols: int, bias: np.ndarray | None = None
) -> np.ndarray:
    record = np.zeros(1, MATRIX)
    record["scheme"], record["address"], record["rows"], record["cols"] = scheme.id, packed.ctypes.data, rows, cols
    record["bias"] = 0 if bias is None else bias.ctypes.data
    return record


def random_weights(rng: np.random.Generator, scheme: Scheme, rows: int, cols: int, extreme: bool = False):
    if scheme.grid is None:
        return rng.standard_normal((rows, cols)).astype(np.float32)
    if isinstance(scheme.grid, Codebook | Pairs):
        points = np.array(scheme.grid.points)
        ends = [p for p, point in enumerate(points) if np.isin(point, (points.min(), points.max())).any()]
        shape = rows, cols // points.shape[1]
        index = rng.choice(ends, shape) if extreme else rng.integers(0, len(points), shape)
        codes = rng.integers(0, 256, (rows, cols // scheme.block))
        row_scale = rng.standard_normal(rows).astype(np.float32)
        return Coded(index.astype(np.uint8), codes.astype(np.uint8), row_scale, scheme.grid)
    if isinstance(scheme.grid, Microscaled):
        ends = [n for n, level in enumerate(scheme.grid.levels) if level in (scheme.grid.low, scheme.grid.high)]
        index = rng.choice(ends if extreme else 16, (rows, cols)).astype(np.uint8)
        return Scaled(index, rng.integers(116, 132, (rows, cols // 32)).astype(np.uint8), scheme.grid)
    low, high = scheme.grid.low, scheme.grid.high
    q = rng.choice([low, high], (rows, cols)) if extreme else rng.integers(low, high + 1, (rows, cols))
    scale = rng.standard_normal((rows, cols // 32)).astype(np.float16).astype(np.float32)
    return ref.Quantized(q.astype(np.int8), scale)


def whole(scheme: Scheme, cols: int) -> int:
    """Columns that the scheme can store: groups are of 32 or 64."""
    return -(-cols // scheme.columns) * scheme.columns


def plain(weights):
    """Weights as the reference multiplies them."""
    return weights.quantized() if isinstance(weights, Coded | Scaled) else weights


def run_multiply(
    kernels: Kernels,
    weights,
    scheme: Scheme,
    x: np.ndarray,
    add: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    threads: int = 1,
) -> np.ndarray:
    rows, cols = plain(weights).shape if scheme is FLOAT32 else plain(weights).q.shape
    padded = -(-rows // 16) * 16
    packed = pack_tiles(weights, scheme)
    assert packed.nbytes == scheme.matrix_bytes(rows, cols)
    step = Step(threads)
    q, s = quantized(kernels, x)
    out = np.full((len(x), padded), np.nan, np.float32) if add is None else np.pad(add, ((0, 0), (0, padded - rows)))
    record, product = matrix_record(packed, scheme, rows, cols, bias), np.zeros(1, PRODUCT)
    for name, array in (("matrix", record), ("f", x), ("q", q), ("s", s), ("out", out)):
        product[name] = array.ctypes.data
    product["out_stride"], product["tokens"], product["add"] = padded * 4, len(x), add is not None
    address = step.address
    areas = np.zeros((threads, scratch_bytes(cols)), np.uint8)
    with Team(threads) as team:
        team.run(lambda thread: kernels.multiply(address, product.ctypes.data, areas[thread].ctypes.data))
    return out[:, :rows]


def quantized(kernels: Kernels, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    q = np.zeros(x.shape, np.int8)
    s = np.zeros((len(x), x.shape[1] // 32, 4), np.float32)
    step = Step()
    for t in range(len(x)):
        kernels.round_activations(step.address, x[t].ctypes.data, q[t].ctypes.data, s[t].ctypes.data, x.shape[1])
    return q, s


@pytest.mark.parametrize("scheme", ALL, ids=attrgetter("name"))
@pytest.mark.parametrize(("rows", "cols"), [(1, 32), (16, 32), (17, 96), (48, 256), (100, 1536), (32, 4096)])
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 13, 67])
def test_multiply(kernels: Kernels, scheme: Scheme, rows: int, cols: int, tokens: int) -> None:
    rng, cols = np.random.default_rng(rows * cols + tokens), whole(scheme, cols)
    weights, x = random_weights(rng, scheme, rows, cols), rng.standard_normal((tokens, cols)).astype(np.float32)
    expected = ref.multiply(plain(weights), x)
    found = run_multiply(kernels, weights, scheme, x)
    assert np.abs(found - expected).max() <= SUM_TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("scheme", QUANTIZED, ids=attrgetter("name"))
def test_multiply_is_exact_at_the_corners_of_int8(kernels: Kernels, scheme: Scheme) -> None:
    """Weights at both ends against activations of +-127: where vpmaddubsw would saturate. One group, so
    that the integer sum times two powers of two is exact in float32."""
    rng, cols = np.random.default_rng(5), scheme.columns
    weights = random_weights(rng, scheme, 64, cols, extreme=True)
    if isinstance(weights, Coded):
        weights.row_scale[:], weights.codes[:] = 0.5, rng.choice([126, 128, 125, 129, 131], weights.codes.shape)
        points = np.array(scheme.grid.points).sum(1)
        weights.index[0], weights.index[1] = points.argmin(), points.argmax()
    elif isinstance(weights, Scaled):
        weights.exponents[:] = rng.choice([127, 128], weights.exponents.shape)
        weights.index[0], weights.index[1] = np.argmin(scheme.grid.levels), np.argmax(scheme.grid.levels)
    else:
        weights.scale[:] = 0.5
        weights.q[0], weights.q[1] = weights.q.min(), weights.q.max()
    x = (rng.choice([-127.0, 127.0], (41, cols))).astype(np.float32)
    x[0], x[1] = 127, -127
    expected = x.astype(np.int64) @ plain(weights).values().astype(np.float64).T
    assert np.array_equal(run_multiply(kernels, weights, scheme, x), expected)


@pytest.mark.parametrize("scheme", ALL, ids=attrgetter("name"))
def test_multiply_adds_and_biases(kernels: Kernels, scheme: Scheme) -> None:
    rng = np.random.default_rng(7)
    weights, x = random_weights(rng, scheme, 48, 64), rng.standard_normal((5, 64)).astype(np.float32)
    before, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 48), (48,)))
    expected = before + bias + ref.multiply(plain(weights), x)
    found = run_multiply(kernels, weights, scheme, x, before, bias)
    assert np.abs(found - expected).max() <= SUM_TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("cols", [128, 4096])
@pytest.mark.parametrize("scheme", ALL, ids=attrgetter("name"))
def test_multiply_depends_neither_on_threads_nor_on_the_batch(kernels: Kernels, scheme: Scheme, cols: int) -> None:
    rng = np.random.default_rng(8)
    weights = random_weights(rng, scheme, 700 if cols == 128 else 32, cols)
    x = rng.standard_normal((61, cols)).astype(np.float32)
    whole = run_multiply(kernels, weights, scheme, x)
    assert np.array_equal(whole, run_multiply(kernels, weights, scheme, x, threads=3))
    one_by_one = [run_multiply(kernels, weights, scheme, x[t : t + 1])[0] for t in range(len(x))]
    assert np.array_equal(whole, np.stack(one_by_one))
    for tokens in range(2, 17):  # every size of a register tile
        assert np.array_equal(whole[:tokens], run_multiply(kernels, weights, scheme, x[:tokens])), tokens


@pytest.mark.parametrize("tokens", [1, 19])
def test_every_exponent_of_mxfp4_is_right(kernels: Kernels, tokens: int) -> None:
    """One exponent a row, from the least float32 keeps nothing of to the greatest; levels up to where float32 ends.

    Activations are so small, or so large, that products are ordinary numbers.
    """
    exponents = np.array([0, 1, 2, 20, 21, 22, 23, 100, 127, 128, 200, 250, 252, 253, 254], np.uint8)
    rng = np.random.default_rng(10)
    index = rng.choice(16, (len(exponents), 64)).astype(np.uint8)
    index[-2:] &= 9  # 0 and half of the power of two: others are beyond float32
    weights = Scaled(index, np.repeat(exponents[:, None], 2, 1), MXFP4_G32.grid)
    assert np.isfinite(weights.values()).all()
    seen = np.zeros(len(exponents), bool)
    for size in (1e-20, 1e20):
        x = (size * rng.standard_normal((tokens, 64))).astype(np.float32)
        twelve = 12 * weights.quantized().scale.astype(np.float64)  # what levels are counted from
        size_of_sums = np.abs(x).astype(np.float64) @ np.repeat(twelve, 32, axis=1).T
        sound = (size_of_sums > 1e-34) & (size_of_sums < 1e37)
        with np.errstate(over="ignore", invalid="ignore"):
            expected, found = ref.multiply(weights.quantized(), x), run_multiply(kernels, weights, MXFP4_G32, x)
            apart = np.abs(found - expected)
        assert (apart <= SUM_TOLERANCE * size_of_sums)[sound].all()
        seen |= sound.any(0)
        assert np.abs(found[size_of_sums < 1e-34]).max(initial=0) < 1e-34
    assert seen.all()


def test_an_exponent_that_is_no_number_gives_none(kernels: Kernels) -> None:
    weights = random_weights(np.random.default_rng(11), MXFP4_G32, 16, 64)
    weights.exponents[3, 1] = 255
    found = run_multiply(kernels, weights, MXFP4_G32, np.ones((20, 64), np.float32))
    assert not np.isfinite(found[:, 3]).any() and np.isfinite(np.delete(found, 3, axis=1)).all()


@pytest.mark.parametrize("scheme", ALL, ids=attrgetter("name"))
def test_unpack_row(kernels: Kernels, scheme: Scheme) -> None:
    rng, cols = np.random.default_rng(9), whole(scheme, 96)
    weights = random_weights(rng, scheme, 37, cols)
    packed, out = pack_tiles(weights, scheme), np.zeros(cols, np.float32)
    record = matrix_record(packed, scheme, 37, cols)
    expected = weights if scheme is FLOAT32 else plain(weights).values()
    for row in (0, 15, 16, 36):
        kernels.unpack_row(record.ctypes.data, row, out.ctypes.data)
        assert np.array_equal(out, expected[row])


@pytest.mark.parametrize("scheme", ALL, ids=attrgetter("name"))
def test_tiles_round_trip(scheme: Scheme) -> None:
    weights = random_weights(np.random.default_rng(1), scheme, 33, 64)
    back = unpack_tiles(pack_tiles(weights, scheme), scheme, 33, 64)
    if scheme is FLOAT32:
        assert np.array_equal(back, weights)
    elif isinstance(weights, Coded):
        stored = definition(scheme).unpack(pack_tiles(weights, scheme), scheme, 33, 64)
        for name in ("index", "codes", "row_scale"):
            assert np.array_equal(getattr(stored, name), getattr(weights, name))
        assert np.array_equal(back.values(), weights.quantized().values())
    elif isinstance(weights, Scaled):
        stored = definition(scheme).unpack(pack_tiles(weights, scheme), scheme, 33, 64)
        for name in ("index", "exponents"):
            assert np.array_equal(getattr(stored, name), getattr(weights, name))
        assert np.array_equal(back.values(), weights.values())
    else:
        assert np.array_equal(back.q, weights.q)
        assert np.array_equal(back.scale, weights.scale)


def test_round_activations(kernels: Kernels) -> None:
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((40, 64)) * 10.0 ** rng.integers(-20, 20, (40, 1))).astype(np.float32)
    x[0], x[1, :32], x[2, 3] = 0, 0, 3e37
    q, s = quantized(kernels, x)
    expected = ref.quantize_rows(x)
    assert np.array_equal(q, expected.q)
    assert np.array_equal(s[:, :, 0], expected.scale)
    halves = expected.q.reshape(40, 2, 2, 16).astype(np.int32).sum(-1)
    for at, sums in ((1, halves.sum(-1)), (2, halves[:, :, 0]), (3, halves[:, :, 1])):
        if kernels.isa.starts_sums:
            assert np.array_equal(s.view(np.int32)[:, :, at], -RAISED * sums)
        else:
            assert np.array_equal(s[:, :, at], expected.scale * sums.astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 15, 16, 31, 63])
def test_round_activations_notices_what_is_not_finite(kernels: Kernels, bad: float, at: int) -> None:
    x = np.ones(64, np.float32)
    x[at] = bad
    step, q, s = Step(), np.zeros(64, np.int8), np.zeros(8, np.float32)
    kernels.round_activations(step.address, x.ctypes.data, q.ctypes.data, s.ctypes.data, 64)
    assert step.sync[ERROR // 8] == 1


def test_exp(kernels: Kernels) -> None:
    x = np.linspace(-87, 88, 16 * 4096).astype(np.float32)
    out = np.zeros_like(x)
    kernels.exp_row(x.ctypes.data, out.ctypes.data, x.size)
    assert np.abs(out / np.exp(x.astype(np.float64)) - 1).max() < 3e-7
    ends = np.array([-1e4, -3e38, 1e4, 0] * 4, np.float32)
    kernels.exp_row(ends.ctypes.data, out.ctypes.data, 16)
    assert out[0] < 2e-38 and out[1] < 2e-38 and np.isfinite(out[2]) and out[3] == 1


def test_exp_below_zero(kernels: Kernels) -> None:
    x = np.concatenate([np.linspace(-86.5, 0, 16 * 4096), -np.geomspace(1e-30, 1, 1024)]).astype(np.float32)
    out = np.zeros_like(x)
    kernels.exp_below_row(x.ctypes.data, out.ctypes.data, x.size)
    assert np.abs(out / np.exp(x.astype(np.float64)) - 1).max() < 3e-7
    ends = np.array([-1e4, -3e38, -np.inf, 0, -0.0, -86.7, -87.4, -150] * 2, np.float32)
    kernels.exp_below_row(ends.ctypes.data, out.ctypes.data, 16)
    assert (out[[3, 4]] == 1).all() and (out[[0, 1, 2, 5, 6, 7]] < 3e-38).all() and (out[:16] > 0).all()


@pytest.mark.parametrize("loud", [1, 30])
@pytest.mark.parametrize("width", [32, 64, 128, 256])
def test_rounded_queries_are_nearer_than_float16_keys(width: int, loud: float) -> None:
    """loud: how much larger than the others one value of each query and key is."""
    rng = np.random.default_rng(width)
    q, k = (rng.standard_normal((500, width)).astype(np.float32) for _ in range(2))
    q[:, 3] *= loud
    k[:, 3] *= loud
    exact = (q.astype(np.float64) * k).sum(-1)
    by_query = (ref.round_queries(q).astype(np.float64) * k).sum(-1) - exact
    by_key = (q.astype(np.float64) * k.astype(np.float16)).sum(-1) - exact
    assert 0 < np.sqrt((by_query**2).mean()) < np.sqrt((by_key**2).mean()) / 2


def test_norm_tokens(kernels: Kernels) -> None:
    rng = np.random.default_rng(3)
    x, weight = rng.standard_normal((7, 96)).astype(np.float32), rng.standard_normal(96).astype(np.float32)
    normed, q, s = np.zeros((7, 96), np.float32), np.zeros((7, 96), np.int8), np.zeros((7, 3, 4), np.float32)
    step = Step(tokens=7, hidden=96, norm_eps=1e-5, x=x, normed=normed, normed_q=q, normed_s=s)
    kernels.norm_tokens(step.address, weight.ctypes.data, 0)
    expected = ref.rms_norm(x, weight, 1e-5)
    assert np.abs(normed - expected).max() < 2e-6 * np.abs(expected).max()
    assert np.array_equal(q, ref.quantize_rows(normed).q)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_norm_tokens_after_a_branch(kernels: Kernels, size: float) -> None:
    """A branch is normed and added before the norm, whatever its size; it is 0 afterwards."""
    rng = np.random.default_rng(4)
    x, branch = (rng.standard_normal((5, 160)).astype(np.float32) for _ in range(2))
    weight, post_norm = (rng.standard_normal(160).astype(np.float32) for _ in range(2))
    branch *= np.float32(size)
    expected_x = x + ref.rms_norm(branch, post_norm, 1e-5)
    normed, q, s = np.zeros((5, 160), np.float32), np.zeros((5, 160), np.int8), np.zeros((5, 5, 4), np.float32)
    step = Step(tokens=5, hidden=160, norm_eps=1e-5, x=x, branch=branch, normed=normed, normed_q=q, normed_s=s)
    kernels.norm_tokens(step.address, weight.ctypes.data, post_norm.ctypes.data)
    assert np.abs(x - expected_x).max() < 2e-6 * np.abs(expected_x).max()
    assert np.abs(normed - ref.rms_norm(expected_x, weight, 1e-5)).max() < 3e-6 * np.abs(normed).max()
    assert np.array_equal(q, ref.quantize_rows(normed).q)
    assert not branch.any() and step.sync[ERROR // 8] == 0


def test_a_branch_that_is_not_finite_is_noticed(kernels: Kernels) -> None:
    x, branch, weight = np.ones((1, 32), np.float32), np.ones((1, 32), np.float32), np.ones(32, np.float32)
    for broken in (np.nan, np.inf, 1e30):  # the square of the last is none
        x[:], branch[0, 3] = 1, broken
        normed, q, s = np.zeros((1, 32), np.float32), np.zeros((1, 32), np.int8), np.zeros((1, 1, 4), np.float32)
        step = Step(tokens=1, hidden=32, norm_eps=1e-5, x=x, branch=branch, normed=normed, normed_q=q, normed_s=s)
        kernels.norm_tokens(step.address, weight.ctypes.data, weight.ctypes.data)
        assert step.sync[ERROR // 8] == 1


@pytest.mark.parametrize(
    ("width", "biased"), [(1, False), (2, True), (3, False), (3, True), (4, True), (6, False), (7, False)]
)
def test_short_conv(kernels: Kernels, width: int, biased: bool) -> None:
    """In chunks of uneven size, the state carried along."""
    rng = np.random.default_rng(width)
    hidden, tokens = 96, 11
    bcx = rng.standard_normal((tokens, 3 * hidden)).astype(np.float32)
    taps = rng.standard_normal((width, hidden)).astype(np.float32)
    bias = rng.standard_normal(hidden).astype(np.float32) if biased else None
    past = rng.standard_normal((max(1, width - 1), hidden)).astype(np.float32)
    expected, expected_past = ref.short_conv(bcx, taps, bias, past[: width - 1])
    layer, state = np.zeros(1, LAYER), np.zeros(1, STATE)
    layer["conv_width"], layer["taps"] = width, taps.ctypes.data
    layer["taps_bias"] = 0 if bias is None else bias.ctypes.data
    state["conv"] = past.ctypes.data
    rows = np.zeros(tokens, ROW)
    rows["states"], rows["noted"] = state.ctypes.data, -1
    found = []
    for part in np.split(bcx, [1, 3, 8]):
        mixed = np.zeros((len(part), hidden), np.float32)
        q, s = np.zeros(mixed.shape, np.int8), np.zeros((len(part), hidden // 32, 4), np.float32)
        step = Step(
            hidden=hidden,
            tokens=len(part),
            rows=rows,
            wide=np.ascontiguousarray(part),
            mixed=mixed,
            mixed_q=q,
            mixed_s=s,
        )
        kernels.conv_tokens(step.address, layer.ctypes.data, 0)
        assert np.array_equal(q, ref.quantize_rows(mixed).q)
        found.append(mixed)
    assert np.abs(np.concatenate(found) - expected).max() < 1e-5
    assert np.array_equal(past[: width - 1], expected_past)


@pytest.mark.parametrize("kept", ["float16", "int8"])
@pytest.mark.parametrize(("heads", "kv", "width"), [(4, 4, 32), (3, 1, 32), (8, 2, 64), (7, 1, 32), (2, 1, 128)])
@pytest.mark.parametrize("position", [0, 5, 253, 300])  # 253: the first tokens end before the second block of scores
def test_attention(kernels: Kernels, heads: int, kv: int, width: int, position: int, kept: str) -> None:
    check_attention(kernels, heads, kv, width, position, kept)


@pytest.mark.parametrize("kept", ["float16", "int8"])
@pytest.mark.parametrize(
    ("position", "window"), [(0, 1), (0, 4), (5, 3), (40, 16), (43, 16), (300, 21), (300, 256), (300, 259), (300, 290)]
)
def test_attention_in_a_window(kernels: Kernels, position: int, window: int, kept: str) -> None:
    """Windows that begin inside a block of 16 keys and at its edges, and that need one and two blocks of scores."""
    check_attention(kernels, 8, 2, 64, position, kept, window)


@pytest.mark.parametrize("rope_width", [0, 32, 64])
def test_a_part_of_each_head_is_turned(kernels: Kernels, rope_width: int) -> None:
    check_attention(kernels, 4, 2, 64, 20, "float16", rope_width=rope_width)


@pytest.mark.parametrize("kept", ["float16", "int8"])
@pytest.mark.parametrize(("position", "window"), [(0, 0), (5, 0), (300, 0), (40, 30), (300, 262)])
def test_attention_of_a_block_that_sees_itself(kernels: Kernels, position: int, window: int, kept: str) -> None:
    check_attention(kernels, 8, 2, 64, position, kept, window, block=True)


@pytest.mark.parametrize("kept", ["float16", "int8"])
@pytest.mark.parametrize("norm", ["none", "all"])
@pytest.mark.parametrize(("heads", "kv", "width"), [(4, 4, 32), (3, 1, 96), (14, 2, 64)])
def test_attention_with_another_norm_of_heads(
    kernels: Kernels, heads: int, kv: int, width: int, norm: str, kept: str
) -> None:
    check_attention(kernels, heads, kv, width, 20, kept, norm=norm)


@pytest.mark.parametrize("kept", ["float16", "int8"])
@pytest.mark.parametrize("norm", ["head", "all"])
@pytest.mark.parametrize(("heads", "kv", "width"), [(4, 4, 32), (3, 1, 96), (32, 8, 128)])
def test_attention_with_a_norm_behind_the_turn(
    kernels: Kernels, heads: int, kv: int, width: int, norm: str, kept: str
) -> None:
    check_attention(kernels, heads, kv, width, 20, kept, norm=norm, norm_last=True)


@pytest.mark.parametrize("gate", ["head", "value"])
@pytest.mark.parametrize(("heads", "kv", "width"), [(16, 4, 128), (3, 1, 96), (18, 6, 32)])
def test_attention_with_gates(kernels: Kernels, heads: int, kv: int, width: int, gate: str) -> None:
    check_attention(kernels, heads, kv, width, 20, "float16", window=7, gate=gate)


@pytest.mark.parametrize("kept", ["float16", "int8"])
@pytest.mark.parametrize(("heads", "kv", "width"), [(8, 2, 64), (3, 1, 96), (18, 6, 32)])
@pytest.mark.parametrize(("position", "window"), [(0, 0), (300, 0), (40, 7), (300, 262)])
def test_attention_with_sinks(
    kernels: Kernels, heads: int, kv: int, width: int, position: int, window: int, kept: str
) -> None:
    """The first head's sink takes all, the second's nothing."""
    check_attention(kernels, heads, kv, width, position, kept, window, sinks=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sink_that_is_no_number_is_noticed(kernels: Kernels, bad: float) -> None:
    hd, sinks = 32, np.zeros(16, np.float32)
    layer, state, rows = np.zeros(1, LAYER), np.zeros(1, STATE), np.zeros(1, ROW)
    layer["heads"] = layer["kv_heads"] = 1
    layer["head_dim"], layer["sinks"], sinks[0] = hd, sinks.ctypes.data, bad
    keys, values = np.zeros((1, 1, hd, 16), np.float16), np.zeros((1, 16, hd), np.float16)
    state["keys"], state["values"], state["capacity"] = keys.ctypes.data, values.ctypes.data, 16
    rows["states"] = state.ctypes.data
    step = Step(norm_eps=1e-5, tokens=1, rows=rows, wide=np.ones((1, 3 * hd), np.float32))
    kernels.prepare_heads(step.address, layer.ctypes.data, 0)
    assert step.sync[ERROR // 8] == 1


def test_a_gate_that_is_not_a_number_is_noticed(kernels: Kernels) -> None:
    """Arithmetic would lose it: the maximum of a NaN and a number is the number."""
    hd, one = 32, np.ones(32, np.float32)
    layer, state, gates = np.zeros(1, LAYER), np.zeros(1, STATE), np.zeros((1, 16), np.float32)
    layer["heads"] = layer["kv_heads"] = layer["gate"]["rows"] = 1
    layer["head_dim"], gates[0, 0] = hd, np.nan
    keys, values = np.zeros((1, 1, hd, 16), np.float16), np.zeros((1, 16, hd), np.float16)
    state["keys"], state["values"], state["capacity"] = keys.ctypes.data, values.ctypes.data, 16
    rows = np.zeros(1, ROW)
    rows["states"] = state.ctypes.data
    step = Step(norm_eps=1e-5, tokens=1, rows=rows, wide=np.tile(one, 3), gates=gates)
    kernels.prepare_heads(step.address, layer.ctypes.data, 0)
    assert step.sync[ERROR // 8] == 1


def check_attention(
    kernels: Kernels,
    heads: int,
    kv: int,
    width: int,
    position: int,
    kept: str,
    window: int = 0,
    rope_width: int | None = None,
    norm: str = "head",
    gate: str = "none",
    block: bool = False,
    sinks: bool = False,
    norm_last: bool = False,
) -> None:
    """Norm, RoPE, cache, softmax with sinks and gates, after `position` tokens; keys and values as the cache has them.

    Positions that no token attends to hold NaN, in scales or values.
    """
    rope_width = width if rope_width is None else rope_width
    rng = np.random.default_rng(heads * 7 + position)
    tokens, capacity = 6, 320
    wide = rng.standard_normal((tokens, (heads + 2 * kv) * width)).astype(np.float32)
    q, k, v = np.split(wide.reshape(tokens, -1, width).copy(), [heads, heads + kv], axis=1)
    sizes = (heads * width, kv * width) if norm == "all" else (width, width)
    q_norm, k_norm = (1 + rng.standard_normal(size).astype(np.float32) * np.float32(0.2) for size in sizes)
    past_k, past_v = (rng.standard_normal((position, kv, width)).astype(np.float32) for _ in range(2))
    rope = rope_table(Rope(10000.0, rope_width), np.arange(capacity))

    def rounded(x: np.ndarray) -> np.ndarray:
        return ref.round_heads(x) if kept == "int8" else x.astype(np.float16).astype(np.float32)

    def normed(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        rows = x.reshape(tokens, -1, weight.size)
        return (rows if norm == "none" else ref.rms_norm(rows, weight, 1e-5)).reshape(x.shape)

    def prepared(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        angles = rope[position : position + tokens]
        return normed(ref.rotate(x, angles), weight) if norm_last else ref.rotate(normed(x, weight), angles)

    turned_q, turned_k = prepared(q, q_norm), prepared(k, k_norm)
    if kept == "int8" and kernels.isa.rounds_queries:
        turned_q = ref.round_queries(turned_q)
    all_k, all_v = rounded(np.concatenate([past_k, turned_k])), rounded(np.concatenate([past_v, v]))
    sink = 3 * rng.standard_normal(heads).astype(np.float32) if sinks else None
    if sink is not None:
        sink[:2] = 1e4, -1e4
    expected = ref.attention(turned_q, all_k, all_v, position, window, sink)
    if block:  # every token sees what the last one sees
        last = position + tokens - 1
        expected = np.concatenate([ref.attention(q[None], all_k, all_v, last, window) for q in turned_q])
    gate_rows = {"none": 0, "head": heads, "value": heads * width}[gate]
    gates = 4 * rng.standard_normal((tokens, -(-gate_rows // 16) * 16)).astype(np.float32)
    if gate != "none":
        gates[0, :3] = -200, 200, 0  # far beyond what exp can take
        expected = ref.gate_heads(expected, gates[:, :gate_rows])

    dtype = np.int8 if kept == "int8" else np.float16
    keys = np.zeros((kv, capacity // 16, width, 16), dtype)
    # What lies beyond must not be read.
    values = np.full((kv, capacity, width), 77 if kept == "int8" else np.nan, dtype)
    key_scales, value_scales = np.ones((kv, capacity), np.float32), np.ones((kv, capacity), np.float32)
    for p, h in itertools.product(range(position), range(kv)):
        for cache, x, scales in (
            (keys[h, p // 16, :, p % 16], past_k, key_scales),
            (values[h, p], past_v, value_scales),
        ):
            if kept == "int8":
                scales[h, p] = np.abs(x[p, h]).max() / np.float32(127)
                cache[:] = np.rint(x[p, h] / scales[h, p])
            else:
                cache[:] = x[p, h]
    if window:
        unseen = max(0, position + (tokens if block else 1) - window)
        values[:, :unseen] = 77 if kept == "int8" else np.nan
        key_scales[:, :unseen] = value_scales[:, :unseen] = np.nan
    layer, state = np.zeros(1, LAYER), np.zeros(1, STATE)
    layer["heads"], layer["kv_heads"], layer["head_dim"], layer["window"] = heads, kv, width, window
    layer["rope"], layer["rope_width"] = rope.ctypes.data, rope_width
    if norm != "none":
        layer["q_norm"], layer["k_norm"], layer["norm_all"] = q_norm.ctypes.data, k_norm.ctypes.data, norm == "all"
        layer["norm_last"] = norm_last
    state["keys"], state["values"] = keys.ctypes.data, values.ctypes.data
    state["key_scales"], state["value_scales"] = key_scales.ctypes.data, value_scales.ctypes.data
    mixed, mixed_q = np.zeros((tokens, heads * width), np.float32), np.zeros((tokens, heads * width), np.int8)
    mixed_s = np.zeros((tokens, heads * width // 32, 4), np.float32)
    state["capacity"], state["is_int8"] = capacity, kept == "int8"
    rows = np.zeros(tokens, ROW)
    rows["states"], rows["position"] = state.ctypes.data, position + np.arange(tokens)
    layer["gate"]["rows"] = gate_rows
    if sink is not None:
        kept_sinks = np.pad(sink, (0, -heads % 16))
        layer["sinks"] = kept_sinks.ctypes.data
    rows["ahead"] = np.arange(tokens)[::-1] if block else 0
    step = Step(norm_eps=1e-5, tokens=tokens, rows=rows, wide=wide, gates=gates,
                mixed=mixed, mixed_q=mixed_q, mixed_s=mixed_s)  # fmt: skip
    scratch = np.zeros(attention_scratch_bytes(width), np.uint8)
    kernels.prepare_heads(step.address, layer.ctypes.data, 0)
    kernels.attend_tokens(step.address, layer.ctypes.data, 0, scratch.ctypes.data)
    # One step of the cache's rounding may differ: 2**-11 of a value's size in float16, 1/127 in int8.
    assert np.abs(mixed - expected).max() < (0.05 if kept == "int8" else 2e-3)
    assert np.median(np.abs(mixed - expected)) < 2e-6
    assert np.array_equal(mixed_q, ref.quantize_rows(mixed).q)


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
@pytest.mark.parametrize(
    ("experts", "top_k", "normalize", "biased"),
    [
        (8, 3, True, True),
        (64, 4, True, True),
        (20, 4, False, True),
        (32, 1, True, False),
        (5, 5, True, True),
        (128, 8, True, False),
        (250, 8, False, False),
        (256, 8, True, True),
    ],
)
def test_route(kernels: Kernels, experts: int, top_k: int, normalize: bool, biased: bool, score: str) -> None:
    rng = np.random.default_rng(experts + top_k)
    tokens, padded = 19, -(-experts // 16) * 16
    logits = rng.standard_normal((tokens, experts)).astype(np.float32)
    logits[3] = 0.5  # a tie: the lower numbers win
    bias = rng.standard_normal(experts).astype(np.float32) * np.float32(0.1) if biased else None
    logits[9:12] = rng.integers(-1, 1, (3, experts))  # two values: ties in every lane and between lanes
    if biased:
        logits[3], bias[: experts // 2] = 0.5, 0
    if score == "softmax":
        logits[5], logits[6] = 1e30, -1e30  # all alike, and far from 0
        logits[7] *= 40  # most scores are all but 0
        logits[7, :top_k] = 20
    router = Router(experts, top_k, score, biased, normalize, guard=1e-6 if score == "sigmoid" else 0.0, scale=1.5)
    chosen, weights = route(logits, bias, router)
    found, found_weights = np.zeros((tokens, top_k), np.int64), np.zeros((tokens, top_k), np.float32)
    segments = np.zeros(experts + 1, np.int64)
    pair_token, pair_weight = np.zeros(tokens * top_k, np.int64), np.zeros(tokens * top_k, np.float32)
    scores = np.pad(logits, ((0, 0), (0, padded - experts)))
    step = Step(
        tokens=tokens,
        experts=experts,
        top_k=top_k,
        router_logits=scores,
        chosen=found,
        chosen_weight=found_weights,
        segments=segments,
        pair_token=pair_token,
        pair_weight=pair_weight,
    )
    layer = np.zeros(1, LAYER)
    padded_bias = None if bias is None else np.pad(bias, (0, padded - experts), constant_values=np.nan)
    layer["is_moe"], layer["router_bias"] = 1, 0 if padded_bias is None else padded_bias.ctypes.data
    layer["softmax"], layer["normalize"] = score == "softmax", normalize
    layer["guard"], layer["route_scale"] = router.guard, router.scale
    kernels.route(step.address, layer.ctypes.data)
    assert np.array_equal(found, chosen)
    assert np.abs(found_weights - weights).max() < 1e-6
    assert np.abs(scores[:, :experts] - scores_of(logits, router)).max() < 1e-6
    expected_pairs = sorted((e, t) for t in range(tokens) for e in chosen[t])
    pairs = [(e, int(pair_token[p])) for e in range(experts) for p in range(segments[e], segments[e + 1])]
    assert pairs == expected_pairs
    for p, (e, t) in enumerate(pairs):
        assert pair_weight[p] == found_weights[t, list(found[t]).index(e)]
    assert step.sync[EXPERTS_READ // 8] == len(np.unique(chosen))


def test_route_notices_nan(kernels: Kernels) -> None:
    logits = np.zeros((1, 16), np.float32)
    logits[0, 5] = np.nan
    step = Step(
        tokens=1,
        experts=8,
        top_k=2,
        router_logits=logits,
        chosen=np.zeros(2, np.int64),
        chosen_weight=np.zeros(2, np.float32),
        segments=np.zeros(9, np.int64),
        present=np.ones(8, np.int64),
        pair_token=np.zeros(2, np.int64),
        pair_weight=np.zeros(2, np.float32),
    )
    layer = np.zeros(1, LAYER)
    layer["is_moe"], layer["normalize"], layer["route_scale"] = 1, 1, 1.0
    kernels.route(step.address, layer.ctypes.data)
    assert step.sync[ERROR // 8] == 1


GATES = {
    "silu": Gated(),
    "clamped": Gated(alpha=1.702, limit=0.8, plus=1.0),
    "not clamped": Gated(alpha=0.5, limit=None, plus=-2.0),
}


@pytest.mark.parametrize(
    ("scheme", "down"),
    [(FLOAT32, FLOAT32), (INT8_G32, FLOAT32), (MXFP4_G32, FLOAT32), (INT8_G32, INT8_G32), (MXFP4_G32, MXFP4_G32)],
    ids=attrgetter("name"),
)
@pytest.mark.parametrize("tokens", [1, 5, 70])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("form", GATES)
def test_ffn(kernels: Kernels, scheme: Scheme, down: Scheme, tokens: int, biased: bool, form: str) -> None:
    """Experts of some tokens each, with large biases; w2, of scheme `down`, by what the kernel itself gave it."""
    rng, hidden, width, experts, gate = np.random.default_rng(tokens), 96, 64, 3, GATES[form]
    x = rng.standard_normal((tokens, hidden)).astype(np.float32)
    blocks, parts = [], []
    for _ in range(experts):
        w1, w3 = (random_weights(rng, scheme, width, hidden) for _ in range(2))
        w2 = random_weights(rng, down, hidden, width)
        biases = [3 * rng.standard_normal(n).astype(np.float32) for n in (width, width, hidden)]
        if gate.limit is not None:
            biases[0][:3], biases[1][:3] = (1e6, -1e6, 0), (-1e6, 1e6, 1e6)
        packed = [interleave([pack_tiles(w, scheme) for w in (w1, w3)], scheme, hidden), pack_tiles(w2, down)]
        blocks.append(np.concatenate([*packed, *([pack_biases(*biases)] if biased else [])]))
        parts.append(([plain(w) for w in (w1, w3, w2)], biases if biased else [np.float32(0)] * 3))
    chosen, weight = rng.integers(0, experts, tokens), rng.uniform(0.1, 2, tokens).astype(np.float32)
    order = np.argsort(chosen, kind="stable")
    segments = np.cumsum([0, *np.bincount(chosen, minlength=experts)])
    x_q, x_s = quantized(kernels, x)
    gathered = [np.zeros_like(a) for a in (x, x_q, x_s)]
    made = [np.zeros((tokens, width), t) for t in (np.float32, np.int8)] + [np.zeros((tokens, width // 32, 4), "f4")]
    out = np.zeros((tokens, hidden), np.float32)
    layer, addresses = np.zeros(1, LAYER), np.array([block.ctypes.data for block in blocks])
    layer["is_moe"], layer["experts"], layer["expert_width"] = 1, addresses.ctypes.data, width
    layer["gate_up_scheme"], layer["down_scheme"] = scheme.id, down.id
    layer["ffn_bias"], layer["clamped"] = biased, gate != Gated()
    layer["gate_alpha"], layer["gate_plus"] = gate.alpha, gate.plus
    layer["gate_limit"] = np.inf if gate.limit is None else gate.limit
    step = Step(tokens=tokens, hidden=hidden, experts=experts, top_k=1, x=out, segments=segments,
                normed=x, normed_q=x_q, normed_s=x_s, present=np.ones(experts, np.int64),
                pair_token=order.astype(np.int64), pair_weight=weight[order],
                pairs=gathered[0], pairs_q=gathered[1], pairs_s=gathered[2],
                gated=made[0], gated_q=made[1], gated_s=made[2])  # fmt: skip
    scratch = np.zeros(scratch_bytes(hidden), np.uint8)
    kernels.apply_ffn(step.address, layer.ctypes.data, scratch.ctypes.data)
    assert step.sync[ERROR // 8] == 0
    given, rounding = made[0], np.float32(0)
    if down is not FLOAT32:
        scales = np.repeat(made[2][..., 0], 32, axis=1)
        given, rounding = made[1] * scales, scales / 2
    expected_gated, expected = np.zeros((tokens, width), np.float32), np.zeros((tokens, hidden), np.float32)
    sums = 0.0
    for e, ((w1, w3, w2), (b1, b3, b2)) in enumerate(parts):
        mine, at = order[segments[e] : segments[e + 1]], slice(segments[e], segments[e + 1])
        if not len(mine):
            continue
        g, u = ref.multiply(w1, x[mine]), ref.multiply(w3, x[mine])
        sums = max(sums, float(np.abs([g, u]).max()))
        expected_gated[at] = ref.gated(g + b1, u + b3, gate.alpha, gate.limit, gate.plus)
        expected[mine] = weight[mine, None] * (ref.multiply(w2, given[at]) + b2)
    # What is clamped is smaller than the sums that it is made of.
    allowed = SUM_TOLERANCE * max(2 * sums, np.abs(expected_gated).max())
    assert (np.abs(given - expected_gated) <= allowed + rounding).all()
    assert np.abs(out - expected).max() <= SUM_TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_clamp_hides_no_broken_number(kernels: Kernels, bad: float) -> None:
    hidden = width = 32
    weights = np.zeros((32, 32), np.float32)
    packed = [interleave([pack_tiles(weights, FLOAT32)] * 2, FLOAT32, hidden), pack_tiles(weights, FLOAT32)]
    biases = [np.zeros(32, np.float32) for _ in range(3)]
    biases[1][5] = bad
    block = np.concatenate([*packed, pack_biases(*biases)])
    layer, address = np.zeros(1, LAYER), np.array([block.ctypes.data])
    layer["experts"], layer["expert_width"], layer["ffn_bias"], layer["clamped"] = address.ctypes.data, width, 1, 1
    layer["gate_alpha"] = layer["gate_limit"] = 1
    floats, bytes_, records = np.zeros((1, 32), np.float32), np.zeros((1, 32), np.int8), np.zeros((1, 1, 4), "f4")
    step = Step(tokens=1, hidden=hidden, x=floats.copy(), segments=np.array([0, 1]), normed=floats, normed_q=bytes_,
                normed_s=records, pair_token=np.zeros(1, np.int64), pair_weight=np.ones(1, np.float32),
                gated=floats.copy(), gated_q=bytes_.copy(), gated_s=records.copy())  # fmt: skip
    scratch = np.zeros(scratch_bytes(hidden), np.uint8)
    kernels.apply_ffn(step.address, layer.ctypes.data, scratch.ctypes.data)
    assert step.sync[ERROR // 8] == 1


def half_patterns() -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def test_float16_conversions_are_exact(kernels: Kernels) -> None:
    """Through a matrix of scales: every finite float16 scales a weight of 1 against an activation of 127."""
    halves = half_patterns()
    halves = halves[np.isfinite(halves)]
    for part in np.array_split(halves, 64):
        weights = ref.Quantized(np.ones((len(part), 32), np.int8), part.astype(np.float32)[:, None])
        record = matrix_record(pack_tiles(weights, INT8_G32), INT8_G32, len(part), 32)
        packed = pack_tiles(weights, INT8_G32)
        record["address"] = packed.ctypes.data
        out = np.zeros(32, np.float32)
        for row in itertools.islice(range(len(part)), 0, None, 97):
            kernels.unpack_row(record.ctypes.data, row, out.ctypes.data)
            assert out[0] == part[row]


def test_kv_cache_rounds_to_float16_like_numpy(kernels: Kernels) -> None:
    """Values pass through `prepare_heads` unchanged but for the rounding: all magnitudes, ties and subnormals."""
    rng = np.random.default_rng(4)
    bits = rng.integers(0, 1 << 32, 4096, dtype=np.uint64).astype(np.uint32).view(np.float32)
    exact = half_patterns().astype(np.float32)
    with np.errstate(all="ignore"):
        ties = (exact[:-1] + exact[1:]) / 2
        pool = np.concatenate([bits, exact, ties, [0.0, -0.0, 65504, 65519.99, 65520, 1e38, 5.9e-8, 2.9e-8]])
        pool = pool[~np.isnan(pool)].astype(np.float32)
    pool = np.resize(pool, -(-len(pool) // 32) * 32).reshape(-1, 32)
    tokens = len(pool)
    capacity = -(-tokens // 16) * 16
    wide = np.ones((tokens, 3, 32), np.float32)
    wide[:, 2] = pool
    values, keys = np.zeros((1, capacity, 32), np.float16), np.zeros((1, capacity // 16, 32, 16), np.float16)
    one, rope = np.ones(32, np.float32), np.zeros((capacity, 32), np.float32)
    layer, state = np.zeros(1, LAYER), np.zeros(1, STATE)
    layer["heads"] = layer["kv_heads"] = 1
    layer["head_dim"] = layer["rope_width"] = 32
    layer["q_norm"], layer["k_norm"], layer["rope"] = one.ctypes.data, one.ctypes.data, rope.ctypes.data
    state["keys"], state["values"] = keys.ctypes.data, values.ctypes.data
    state["capacity"], rows = capacity, np.zeros(tokens, ROW)
    rows["states"], rows["position"] = state.ctypes.data, np.arange(tokens)
    step = Step(norm_eps=1e-5, tokens=tokens, rows=rows, wide=wide)
    kernels.prepare_heads(step.address, layer.ctypes.data, 0)
    with np.errstate(over="ignore"):
        expected = pool.astype(np.float16)
    assert np.array_equal(values[0, :tokens].view(np.uint16), expected.view(np.uint16))


def test_the_tier_is_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for tier in runnable_tiers():
        monkeypatch.setenv("EDGE_LFM_ISA", tier.name)
        assert select_isa() is tier
    monkeypatch.setenv("EDGE_LFM_ISA", "sse9")
    with pytest.raises(IsaError, match="sse9"):
        select_isa()
    foreign = next(tier for tier in TIERS if tier not in runnable_tiers())
    with pytest.raises(IsaError, match="cannot run"):
        select_isa(foreign.name)


def test_measuring_kernels(kernels: Kernels) -> None:
    data = np.arange(1024, dtype=np.int32)
    assert kernels.read_bytes(data.ctypes.data, data.nbytes) == data.sum()
    lines = np.ones(256, np.uint8)
    products = 2 * 16 * 16 * 32 if kernels.isa.has_byte_tiles else 16 * kernels.isa.peak_tile * 16
    assert kernels.dot_many(lines.ctypes.data, 3) == 3 * products
    floats = np.ones(64 + 16 * kernels.isa.peak_tile, np.float32)
    assert kernels.fma_many(floats.ctypes.data, 5) == 5 * 16 * kernels.isa.peak_tile
    assert np.all(floats[64:] == 5)
