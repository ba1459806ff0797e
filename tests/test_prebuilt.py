"""Prebuilt kernels: the same results without Numba, and a sentence for every object that must not be loaded."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from edge_lfm import Model
from edge_lfm.cli.main import main
from edge_lfm.devices import prebuild as prebuilding
from edge_lfm.devices.profiles import profiles
from edge_lfm.devices.targets import TARGETS, find_target
from edge_lfm.errors import EdgeLfmError, IsaError, UsageError
from edge_lfm.kernels.load import library, prebuilt
from edge_lfm.kernels.load.library import load_kernels, source_hash
from edge_lfm.kernels.spec.isa import TIERS, processor_flags, select_isa

pytestmark = pytest.mark.slow

PROMPT = "Tell me a story about a dog."
WITHOUT_NUMBA = (
    "import sys; sys.modules['numba'] = sys.modules['llvmlite'] = None; from edge_lfm import Model; "
    f"m = Model.load(sys.argv[1]); print(*m.generate({PROMPT!r}, temperature=0, max_tokens=40).token_ids)"
)


@pytest.fixture(scope="session")
def prebuilt_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels of this machine's tier, as `edge-lfm compile` makes them."""
    folder = tmp_path_factory.mktemp("kernels")
    assert main(["compile", "--target", select_isa().name, "-o", str(folder)]) == 0
    assert sorted(p.suffix for p in folder.iterdir()) == [".h", ".json", ".so"]  # and nothing is left over
    return folder


@pytest.fixture
def kernels_folder(prebuilt_here: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(prebuilt_here, tmp_path / "kernels"))


def edit_manifest(folder: Path, **changes: Any) -> None:
    (path,) = folder.glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def test_the_same_tokens_without_numba(prebuilt_here: Path, demo: dict[str, Path]) -> None:
    with Model.load(str(demo["balanced"])) as model:
        expected = model.generate(PROMPT, temperature=0, max_tokens=40).token_ids
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_NUMBA, str(demo["balanced"])],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=os.environ | {"EDGE_LFM_KERNELS": str(prebuilt_here), "EDGE_LFM_CACHE": str(prebuilt_here / "none")},
    )
    assert [int(token) for token in done.stdout.split()] == list(expected)
    assert done.stderr == ""  # nothing was compiled


def test_kernels_are_compiled_once_for_a_target(
    prebuilt_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made again, they come from the cache; in another cache the compiler is asked."""
    monkeypatch.setattr(library, "compile_object", lambda isa: b"asked for " + isa.name.encode())
    assert main(["compile", "--target", select_isa().name, "-o", str(tmp_path / "again")]) == 0
    (made,) = prebuilt_here.glob("*.so")
    assert (tmp_path / "again" / made.name).read_bytes() == made.read_bytes()
    monkeypatch.setenv("EDGE_LFM_CACHE", str(tmp_path / "cache"))
    assert library.object_code(select_isa()) == b"asked for " + select_isa().name.encode()


def test_a_wheel_s_own_kernels_come_before_the_compiler(
    prebuilt_here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EDGE_LFM_KERNELS", raising=False)
    monkeypatch.setenv("EDGE_LFM_CACHE", str(tmp_path))
    monkeypatch.setattr(library, "_PACKAGED", prebuilt_here)
    assert library.kernels_are_ready()
    assert load_kernels().origin == f"prebuilt for {select_isa().name}"
    monkeypatch.setattr(library, "_PACKAGED", tmp_path)  # another processor's wheel: the compiler is asked
    assert not library.kernels_are_ready()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "0" * 64}, "another edge-lfm"),
        ({"layout": 1}, "layout version 1"),
        ({"machine": "riscv64", "cpu": "sifive-u74"}, "made for riscv64 (sifive-u74)"),
        ({"requires": ["avx1024"]}, "lacks avx1024"),
        ({"sha256": "0" * 64}, "is damaged"),
        ({"file": "none.so"}, "cannot be loaded"),
        ({"isa": "avx9000"}, "not a manifest"),
        ({"requires": 3}, "not a manifest"),
        ({"layout": "2"}, "not a manifest"),
        ({"more": 1}, "not a manifest"),
    ],
)
def test_what_must_not_be_loaded(kernels_folder: Path, changes: dict[str, Any], words: str) -> None:
    edit_manifest(kernels_folder, **changes)
    with pytest.raises(IsaError) as caught:
        prebuilt.open_prebuilt(*prebuilt.best_prebuilt(kernels_folder, source_hash(), None))
    assert words in caught.value.message and caught.value.hint


def test_damaged_objects_and_missing_ones(kernels_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shared,) = kernels_folder.glob("*.so")
    whole = shared.read_bytes()
    for content in (whole[:-1], whole[:100], b"", whole[:5000] + b"\0" + whole[5001:] + b"\0"):
        shared.write_bytes(content)
        with pytest.raises(IsaError, match="is damaged"):
            prebuilt.open_prebuilt(*prebuilt.best_prebuilt(shared, source_hash(), None))
    # An object that is no library, though its manifest vouches for it: the system's own words.
    shared.write_bytes(b"x")
    edit_manifest(kernels_folder, sha256="2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
    with pytest.raises(IsaError, match="cannot be loaded"):
        prebuilt.open_prebuilt(*prebuilt.best_prebuilt(shared, source_hash(), None))
    for path in (kernels_folder.parent / "nowhere", kernels_folder.parent):
        monkeypatch.setenv("EDGE_LFM_KERNELS", str(path))
        with pytest.raises(IsaError):
            load_kernels()


def test_another_tier_is_not_taken(kernels_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_LFM_KERNELS", str(kernels_folder))
    assert load_kernels().isa.name == select_isa().name
    monkeypatch.setenv("EDGE_LFM_ISA", "neon")
    with pytest.raises(IsaError, match="no kernels of the tier neon"):
        load_kernels()


def test_a_32_bit_python(kernels_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebuilt.struct, "calcsize", lambda _: 4)
    with pytest.raises(IsaError, match="install a 64-bit operating system"):
        prebuilt.best_prebuilt(kernels_folder, source_hash(), None)


def test_targets_are_known_by_device_processor_and_tier() -> None:
    assert find_target("rpi5-8g").name == find_target("RPI5").name == find_target("cortex-a76").name == "cortex-a76"
    assert find_target("dotprod").isa.name == "dotprod" and find_target("cortex-a72").isa.cpu == "cortex-a72"
    for name in [*profiles(), *(target.name for target in TARGETS), *(tier.name for tier in TIERS)]:
        isa = find_target(name).isa
        # A target's processor may ask for more than its tier, but never for another machine.
        assert isa.machine == next(tier.machine for tier in TIERS if tier.name == isa.name)
        assert isa.triple.startswith(isa.machine)
    for bad in ("rpi9", "", "cortex", "armv7"):
        with pytest.raises(UsageError, match="unknown target"):
            find_target(bad)


def test_a_missing_linker_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(prebuilding.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EdgeLfmError, match="pip install ziglang, or: sudo apt install binutils-aarch64-linux-gnu"):
        prebuilding.prebuild(find_target("rpi5"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_compile_s_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for arguments in (["--target", "rpi9", "-o", str(tmp_path)], ["--target", "rpi5"], ["-o", str(tmp_path)]):
        assert main(["compile", *arguments]) == 2
    assert main(["compile", "--target", select_isa().name, "-o", str(tmp_path / "file")]) == 3
    assert "Traceback" not in capsys.readouterr().err
    assert main(["compile", "--list", "--json"]) == 0
    listed = {target["name"]: target["tier"] for target in json.loads(capsys.readouterr().out)}
    assert listed["cortex-a72"] == "neon" and listed["x86-64-v2"] == "ssse3" and listed["i8mm"] == "i8mm"


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_c_example(prebuilt_here: Path, tmp_path: Path) -> None:
    """The header compiles without a warning, as C and as C++, and the object works without Python."""
    (shared,) = prebuilt_here.glob("*.so")
    source, program = ROOT / "examples" / "c" / "multiply.c", tmp_path / "multiply"
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Wconversion", "-Werror", f"-I{prebuilt_here}", str(source)]
    subprocess.run([*command, str(shared), "-lm", "-o", str(program)], check=True)
    done = subprocess.run(
        [program], env={"LD_LIBRARY_PATH": str(prebuilt_here)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout.count("rounding lost") == 4, done.stdout
    header = next(prebuilt_here.glob("*.h"))
    subprocess.run(["cc", "-x", "c++", "-fsyntax-only", "-Wall", "-Werror", str(header)], check=True)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86's flags")
def test_flags_are_read_from_the_system() -> None:
    assert {"sse2", "fxsr"} <= processor_flags()
