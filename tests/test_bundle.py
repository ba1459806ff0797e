"""Bundles: made for this processor and Python, installed by their own script, and refused where they do not belong."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from edge_lfm.cli.main import main
from edge_lfm.devices.wheels import runtime_requirements
from edge_lfm.kernels.spec.isa import select_isa

pytestmark = pytest.mark.slow

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="session")
def bundle(demo: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the demo model for this machine, unpacked."""
    folder = tmp_path_factory.mktemp("bundle")
    tar = folder / "here.tar"
    arguments = ["--target", select_isa().name, "--python", HERE, "-o", str(tar)]
    assert main(["bundle", str(demo["balanced"]), *arguments]) == 0
    assert [p.name for p in folder.iterdir()] == ["here.tar"]
    with tarfile.open(tar) as file:
        file.extractall(folder, filter="data")
    return folder / "edge-lfm"


def install(bundle: Path, to: Path | str, where: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Without a network's help, and without what this environment has installed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("EDGE_LFM", "PYTHON", "VIRTUAL_ENV"))}
    clean |= {"EDGE_LFM_CACHE": str(bundle.parent / "cache"), "PIP_NO_INDEX": "1"}
    return subprocess.run(
        ["sh", str(bundle / "install.sh"), str(to)], capture_output=True, text=True, timeout=300, env=clean, cwd=where
    )


def test_a_bundle_installs_and_answers(bundle: Path, tmp_path: Path) -> None:
    for to in (str(tmp_path / "to"), "to"):  # and again, over what is there
        done = install(bundle, to, tmp_path)
        assert done.returncode == 0, done.stderr
        assert "all as expected" in done.stdout
    to = tmp_path / "to"
    assert sorted(p.name for p in to.iterdir()) == sorted(
        ["bin", "lib", "kernels", "model", "edge-lfm.service", "selftest.py", "expected.json"]
    )
    assert not any((to / "lib" / name).exists() for name in ("numba", "llvmlite", "huggingface_hub"))
    code = [str(to / "bin" / "edge-lfm"), "run", str(to / "model"), "Hello", "--json", "-n", "4"]
    answer = subprocess.run(code, capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]})
    assert answer.returncode == 0 and json.loads(answer.stdout), answer.stderr
    service = (to / "edge-lfm.service").read_text(encoding="utf-8")
    assert f"ExecStart={to}/bin/edge-lfm serve {to}/model" in service and "@" not in service
    files = [f for part in ("lib", "kernels") for f in (to / part).rglob("*") if f.is_file()]
    size = sum(f.stat().st_blocks * 512 for f in files if not {"demo_model", "demo_drafter"} & {*f.parts})
    assert size < 100e6


def test_a_bundle_lists_the_licences_of_its_wheels(bundle: Path) -> None:
    told = (bundle / "LICENSES.txt").read_text(encoding="utf-8")
    packages = [line for line in told.splitlines() if not line.startswith(" ")]
    assert len(packages) == len(list((bundle / "wheels").iterdir()))
    assert not [line for line in packages if line.endswith("no licence stated")]
    assert re.search(r"^edge-lfm \S+: Apache-2.0\n    edge_lfm-\S+/licenses/LICENSE$", told, re.MULTILINE)


def test_a_bundle_for_another_machine_or_python_is_refused(bundle: Path, tmp_path: Path) -> None:
    script = (bundle / "install.sh").read_text(encoding="utf-8")
    for old, new, words in (
        (f'"{platform.machine()}"', '"riscv64"', "make one for this machine"),
        (f'"{HERE} 64"', '"3.99 64"', "bundle --python VERSION"),
        (f'"{HERE} 64"', f'"{HERE} 32"', "64-bit Python"),
    ):
        assert old in script
        (bundle / "other.sh").write_text(script.replace(old, new), encoding="utf-8")
        done = subprocess.run(["sh", str(bundle / "other.sh"), str(tmp_path / "to")], capture_output=True, text=True)
        assert done.returncode == 1 and words in done.stderr
    (bundle / "other.sh").unlink()
    assert not (tmp_path / "to").exists()


def test_a_damaged_bundle_and_a_failing_self_test(bundle: Path, tmp_path: Path) -> None:
    sums = (bundle / "SHA256SUMS").read_text(encoding="utf-8")
    try:
        (bundle / "SHA256SUMS").write_text(sums.replace(sums[:8], "00000000", 1), encoding="utf-8")
        done = install(bundle, tmp_path / "to")
        assert done.returncode == 1 and "damaged" in done.stderr and not (tmp_path / "to").exists()
        (bundle / "SHA256SUMS").write_text("".join(s for s in sums.splitlines(True) if "expected" not in s))
        expected = json.loads((bundle / "expected.json").read_text(encoding="utf-8"))
        (bundle / "expected.json").write_text(json.dumps([expected[0] | {"token_ids": [1]}]), encoding="utf-8")
        done = install(bundle, tmp_path / "to")
        assert done.returncode == 1 and "expected the tokens [1], got" in done.stderr
        assert list((tmp_path / "to").iterdir()) == []
        (bundle / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")
    finally:
        (bundle / "SHA256SUMS").write_text(sums, encoding="utf-8")


def test_bad_input(tmp_path: Path, demo: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--target", select_isa().name]
    (tmp_path / "taken").mkdir()
    for arguments, code, words in (
        (["--target", "rpi9", "-o", str(tmp_path / "x")], 2, "unknown target"),
        ([*here, "-o", str(tmp_path / "taken")], 3, "exists"),
        ([*here, "--python", "2.7", "-o", str(tmp_path / "x")], 2, "3.11 or newer"),
        ([*here, "--python", "3.x", "-o", str(tmp_path / "x")], 2, "3.11 or newer"),
        ([str(tmp_path / "none"), *here, "-o", str(tmp_path / "x")], 3, "none"),
        ([str(demo["balanced"]), "--target", "rpi5-7g", "-o", str(tmp_path / "x")], 2, "not made with 7 GB"),
    ):
        assert main(["bundle", *arguments]) == code
        told = capsys.readouterr().err
        assert words in told and "Traceback" not in told
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


def test_a_python_without_wheels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "--target", select_isa().name, "--python", "3.99", "-o", str(tmp_path / "x")]) == 1
    assert "for Python 3.99 on" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_compilers_stay_at_home() -> None:
    names = {line.split(">")[0].split("=")[0] for line in runtime_requirements()}
    assert {"numpy", "tokenizers", "starlette", "llguidance"} <= names
    assert not names & {"numba", "llvmlite", "pytest", "torch"}
