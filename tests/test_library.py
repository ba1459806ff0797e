"""The kernel cache: used, keyed, and never trusted when damaged; and what happens without one."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from edge_lfm import paths
from edge_lfm.cli.main import main
from edge_lfm.demo import packed_demo
from edge_lfm.kernels.load import library
from edge_lfm.kernels.spec.isa import select_isa

pytestmark = pytest.mark.slow

CODE = (
    "from edge_lfm.kernels.load.library import load_kernels; import numpy as np; k = load_kernels(); "
    "x = np.zeros(16, np.float32); k.exp_row(x.ctypes.data, x.ctypes.data, 16); print(x.sum())"
)


def run(cache: Path, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"EDGE_LFM_CACHE": str(cache)} | env,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "16.0"
    return done


def cached_kernels() -> Path:
    """The file of this machine's kernels, in the cache of the test run."""
    library.load_kernels()
    path = library._cached_path(select_isa())
    assert path is not None
    return path


def test_the_cache_is_used_rebuilt_and_never_trusted(tmp_path: Path) -> None:
    """A compilation for a damaged file, none when it is whole; without a file: `test_a_bad_cache_stops_nothing`."""
    folder = tmp_path / "kernels"
    shutil.copytree(cached_kernels().parent, folder)
    assert run(tmp_path).stderr == ""
    path = folder / cached_kernels().name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    assert "compiling" in run(tmp_path).stderr
    assert path.read_bytes() == whole  # compiled again, byte for byte


def test_first_starts_at_once_make_one_demo_model(tmp_path: Path) -> None:
    shutil.copytree(cached_kernels().parent, tmp_path / "kernels")
    code = "from edge_lfm import Model; print(Model.load().generate('What is the capital of France?').text)"
    command, settings = [sys.executable, "-P", "-c", code], os.environ | {"EDGE_LFM_CACHE": str(tmp_path)}
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=settings) for _ in range(4)]
    assert {start.communicate(timeout=120)[0] for start in starts} == {"The capital of France is Paris.\n"}
    assert [path.name for path in (tmp_path / "models").iterdir()] == [packed_demo().name]


def test_only_what_is_compiled_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed docstring of a NumPy definition or of the thread team recompiles nothing."""
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__", "prebuilt"))
    monkeypatch.setattr(library, "_KERNELS", tmp_path / "kernels")

    def hash_after(name: str) -> str:
        with (tmp_path / "kernels" / name).open("a", encoding="utf-8") as file:
            file.write("# changed\n")
        return library.source_hash.__wrapped__()

    before = library.source_hash.__wrapped__()
    for name in ("spec/definitions/codebook.py", "spec/vectors.py", "spec/tiles.py", "spec/ref.py", "load/team.py"):
        assert hash_after(name) == before, name
    names = (
        "spec/schemes.py",
        "spec/isa.py",
        "spec/layout.py",
        "lang/dots.py",
        "ops/matmul.py",
        "ops/schemes/linear.py",
    )
    assert len({before, *(hash_after(name) for name in names)}) == len(names) + 1


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts compilations, and serves the session's cached code instead of compiling."""
    code = library._read_checked(cached_kernels())
    assert code is not None
    count: list[str] = []
    monkeypatch.setattr(library, "compile_object", lambda isa, progress: count.append(isa.name) or code)
    return count


@pytest.mark.parametrize("kind", ["read-only parent", "a file", "world-writable", "truncated"])
def test_a_bad_cache_stops_nothing(
    kind: str, tmp_path: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    if kind == "read-only parent":
        cache = Path("/proc/nowhere")
    elif kind == "a file":
        cache.write_text("x", encoding="utf-8")
    elif kind == "world-writable":
        (cache / "kernels").mkdir(parents=True)
        (cache / "kernels").chmod(0o777)
    monkeypatch.setenv("EDGE_LFM_CACHE", str(cache))
    library._load.__wrapped__(select_isa())
    assert len(compiled) == 1
    if kind == "world-writable":
        assert list((cache / "kernels").iterdir()) == []  # machine code that others could replace is not kept
    if kind == "truncated":  # in a new cache, which only this user may write to
        assert stat.S_IMODE((cache / "kernels").stat().st_mode) == 0o700
        (path,) = (cache / "kernels").iterdir()
        path.write_bytes(path.read_bytes()[:40])
        library._load.__wrapped__(select_isa())
        assert len(compiled) == 2


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("EDGE_LFM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.cache_folder() == tmp_path / "edge-lfm"
    monkeypatch.setenv("EDGE_LFM_CACHE", str(tmp_path / "x"))
    assert paths.cache_folder() == tmp_path / "x"
    monkeypatch.delenv("EDGE_LFM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert paths.cache_folder() == tmp_path / "home" / ".cache" / "edge-lfm"
    monkeypatch.setattr(Path, "home", _no_home)
    assert not paths.cache_folder().exists()


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_verbs_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    library.load_kernels()
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGE_LFM_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("signal.signal", lambda *_: None)  # of the test run
    for arguments in (["run", "Hello there"], ["doctor"], ["fit", "lfm2-350m"], ["devices", "--detect"]):
        assert main(arguments) == 0, capsys.readouterr().err
