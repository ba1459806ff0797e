"""The tier `amx`: its kernels, with AMX in software, give the bits of the tier without; and when it is chosen.

No processor with AMX was at hand. All machine code but AMX's own instructions runs as it is (`emulated.py`).
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from conftest import goldens_tool
from emulated import AMX, emulator, load_emulated, skip_without_emulation
from test_engine import engine_logits
from test_kernels import QUANTIZED, random_weights, run_multiply, whole

from edge_lfm.cli import doctor
from edge_lfm.errors import IsaError
from edge_lfm.kernels.load.library import Kernels, load_kernels, object_code
from edge_lfm.kernels.spec import isa
from edge_lfm.kernels.spec.isa import find_isa
from edge_lfm.kernels.spec.schemes import Scheme

pytestmark = pytest.mark.slow

PROBE = """
#include <immintrin.h>
void probe(const void *shapes, const void *a, long a_stride, const void *b, long b_stride, void *c, long kind) {
    _tile_loadconfig(shapes);
    _tile_loadd(0, c, 64);
    _tile_loadd(6, a, a_stride);
    _tile_stream_loadd(7, b, b_stride);
    if (kind == 0) _tile_dpbssd(0, 6, 7);
    if (kind == 1) _tile_dpbsud(0, 6, 7);
    if (kind == 2) _tile_dpbusd(0, 6, 7);
    if (kind == 3) _tile_dpbuud(0, 6, 7);
    _tile_stored(0, c, 64);
    _tile_zero(0);
    _tile_release();
}
"""
"""One product of tiles of any shape, encoded by gcc."""
SIGNED = ((True, True), (True, False), (False, True), (False, False))


@pytest.fixture(scope="module")
def amx() -> Kernels:
    return load_emulated()


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes._NamedFuncPointer:
    skip_without_emulation()
    emulator()
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.c").write_text(PROBE)
    command = ["gcc", "-O2", "-mamx-tile", "-mamx-int8", "-shared", "-fPIC", "probe.c", "-o", "probe.so"]
    subprocess.run(command, cwd=folder, check=True)
    function = ctypes.CDLL(str(folder / "probe.so")).probe
    function.argtypes, function.restype = [ctypes.c_int64] * 7, None
    return function


def shapes_of(rows: int, columns: int, others: int) -> np.ndarray:
    """The 64 bytes that set the shapes of the probe's tiles."""
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1
    for tile, (tile_rows, row_bytes) in {
        0: (rows, 4 * others),
        6: (rows, columns),
        7: (columns // 4, 4 * others),
    }.items():
        shapes[16 + 2 * tile], shapes[48 + tile] = row_bytes, tile_rows
    return shapes


@pytest.mark.parametrize("kind", range(4))
@pytest.mark.parametrize(("rows", "columns", "others"), [(16, 64, 16), (16, 32, 16), (5, 12, 3), (1, 4, 1)])
def test_the_emulator_multiplies_what_gcc_encodes(
    probe: ctypes._NamedFuncPointer, rows: int, columns: int, others: int, kind: int
) -> None:
    rng = np.random.default_rng(rows + kind)
    shapes, before = shapes_of(rows, columns, others), rng.integers(-(2**31), 2**31, (rows, 16)).astype(np.int32)
    for draw in (lambda shape: rng.integers(0, 256, shape), lambda shape: rng.choice([0, 127, 128, 255], shape)):
        a, w, c = draw((rows, columns)).astype(np.uint8), draw((columns, others)).astype(np.uint8), before.copy()
        b = np.ascontiguousarray(w.reshape(-1, 4, others).transpose(0, 2, 1))
        x, y = (v.view(np.int8 if signed else np.uint8) for v, signed in zip((a, w), SIGNED[kind], strict=True))
        expected = before.copy()
        expected[:, :others] += (x.astype(np.int64) @ y.astype(np.int64)).astype(np.int32)
        probe(
            *(v.ctypes.data if isinstance(v, np.ndarray) else v for v in (shapes, a, columns, b, 4 * others, c, kind))
        )
        assert np.array_equal(c, expected)


@pytest.mark.parametrize("scheme", QUANTIZED, ids=attrgetter("name"))
@pytest.mark.parametrize("extreme", [False, True])
def test_a_tile_of_bytes_gives_the_bits_of_register_tiles(amx: Kernels, scheme: Scheme, extreme: bool) -> None:
    """For one to 21 groups of columns, batches with and without a rest, threads, and all magnitudes of activations."""
    plain, rng = load_kernels(find_isa("avx512vnni")), np.random.default_rng(12)
    for rows, cols, tokens, threads in ((1, 32, 16, 1), (17, 96, 33, 1), (48, 672, 48, 2), (100, 512, 129, 3)):
        cols = whole(scheme, cols)
        weights = random_weights(rng, scheme, rows, cols, extreme)
        x = rng.standard_normal((tokens, cols)) * 10.0 ** rng.integers(-18, 18, (tokens, 1))
        x = (np.sign(x) if extreme else x).astype(np.float32)
        before = rng.standard_normal((tokens, rows)).astype(np.float32)
        for add in (None, before):
            found = run_multiply(amx, weights, scheme, x, add, threads=threads)
            assert np.array_equal(found, run_multiply(plain, weights, scheme, x, add))


@pytest.mark.skipif(not isa.processor_flags().isdisjoint(isa._TILE_FLAGS), reason="tiles are not emulated here")
@pytest.mark.parametrize("scheme", QUANTIZED, ids=attrgetter("name"))
def test_tiles_are_used_from_sixteen_tokens_on(amx: Kernels, scheme: Scheme) -> None:
    """Two row tiles, so twice: shapes set, per block of columns and of tokens five instructions, tiles released."""
    rng, executed = np.random.default_rng(13), emulator().emulated_instructions
    weights = random_weights(rng, scheme, 32, 192)
    for tokens, blocks in ((15, 0), (16, 1), (47, 2), (48, 3), (64, 4)):
        start = executed()
        run_multiply(amx, weights, scheme, np.ones((tokens, 192), np.float32))
        calls = -(-blocks // 3)  # batches of 48
        assert executed() - start == 2 * (2 * calls + 5 * blocks * 192 // scheme.block)


@pytest.mark.parametrize(("case", "scheme"), [("moe", "balanced"), ("dense-group3", "int8"), ("moe", "tiny")])
def test_a_model_has_the_same_logits(
    amx: Kernels, case: str, scheme: str, packed_cases: dict[str, dict[str, Path]]
) -> None:
    """Whole and in parts, with one thread and three."""
    ids, folder = goldens_tool.token_ids(case), packed_cases[scheme][case]
    expected = engine_logits(folder, ids, isa="avx512vnni")
    for splits, threads in ((None, 1), ([17, 20], 3)):
        assert np.array_equal(engine_logits(folder, ids, splits, threads, "amx"), expected)


def test_the_object_has_these_instructions_of_amx_and_no_others(tmp_path: Path) -> None:
    if shutil.which("objdump") is None:
        pytest.skip("machine code is read with objdump, which is not installed")
    path = tmp_path / "kernels.o"
    path.write_bytes(object_code(AMX))
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True)
    names = re.findall(r"^ +[0-9a-f]+:\t(\w+)(?: |$)", text.stdout, re.MULTILINE)
    found = {name: names.count(name) for name in names if re.match(r"tile|ldtile|sttile|td|tcmm|tmm|t2rpn|tcvt", name)}
    assert found.keys() == {"ldtilecfg", "tilezero", "tileloadd", "tdpbsud", "tilestored", "tilerelease"}
    assert found["ldtilecfg"] == found["tilerelease"]  # who sets shapes gives tiles back
    assert found["tileloadd"] == 2 * found["tdpbsud"]
    assert "vpdpbusd" in names


CPUINFO = f"processor : 0\nflags : {' '.join(sorted(AMX.requires))} fma avx2\n"


@pytest.fixture
def a_processor_with_amx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """What Linux says of one, in place of this one; whether it grants tiles is left to the test."""
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    monkeypatch.setattr(isa, "Path", lambda name: tmp_path / Path(name).name)
    monkeypatch.setattr(isa, "processor_flags", isa.processor_flags.__wrapped__)
    monkeypatch.setattr(isa.platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("EDGE_LFM_ISA", raising=False)
    return monkeypatch


def test_the_tier_is_chosen_where_linux_grants_tiles(a_processor_with_amx: pytest.MonkeyPatch) -> None:
    a_processor_with_amx.setattr(isa, "_tiles_are_granted", lambda: True)
    assert isa.select_isa().name == "amx"
    a_processor_with_amx.setenv("EDGE_LFM_ISA", "avx512vnni")
    assert isa.select_isa().name == "avx512vnni"


def test_without_tiles_the_tier_below_is_chosen(a_processor_with_amx: pytest.MonkeyPatch) -> None:
    a_processor_with_amx.setattr(isa, "_tiles_are_granted", lambda: False)
    assert isa.select_isa().name == "avx512vnni"
    with pytest.raises(IsaError, match="lacks amx_int8, amx_tile"):
        isa.select_isa("amx")


def test_linux_is_asked_only_for_processors_that_have_tiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags : avx2 fma f16c bmi2\n")
    monkeypatch.setattr(isa, "Path", lambda name: tmp_path / Path(name).name)
    monkeypatch.setattr(isa.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(isa, "_tiles_are_granted", lambda: pytest.fail("asked"))
    assert isa.processor_flags.__wrapped__() == {"avx2", "fma", "f16c", "bmi2"}


def test_doctor_says_that_the_tier_was_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "kernels_are_ready", lambda: True)
    monkeypatch.setattr(doctor, "load_kernels", lambda: Kernels(AMX, "prebuilt for amx", {}, None))
    assert "amx, prebuilt for amx; its tiles are proven by emulation" in doctor._kernels().value


@pytest.mark.skipif(isa.platform.machine() != "x86_64", reason="a system call of x86")
def test_linux_grants_no_tiles_that_there_are_none_of() -> None:
    if "amx_tile" not in Path("/proc/cpuinfo").read_text().split():
        assert not isa._tiles_are_granted()
