"""The whole proof without a board: bundles installed in an arm64 Debian, on emulated processors of three kinds.

Run by `make test-arm`, which makes the system: a chroot, executed by qemu-user. The quick version is `test_arm.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import ROOT

from edge_lfm.cli.main import main

BOARD = os.environ.get("EDGE_LFM_ARM_ROOT", "")
PROCESSORS = {"cortex-a72": "cortex-a72", "cortex-a76": "cortex-a76", "apple-m2": "max"}
TIERS = {"cortex-a72": "neon", "cortex-a76": "dotprod", "apple-m2": "i8mm"}

pytestmark = [
    pytest.mark.skipif(not BOARD, reason="needs root and some minutes: make test-arm"),
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # every instruction is emulated
]


def command_on_board(processor: str, *command: str, **env: str) -> list[str]:
    """In the chroot, with /proc mounted for as long as the command runs."""
    settings = [f"{name}={value}" for name, value in {"QEMU_CPU": processor, "HOME": "/root", **env}.items()]
    inside = 'mount -t proc proc "$0/proc" && exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"'
    return ["unshare", "--mount", "sh", "-c", inside, BOARD, *settings, "chroot", BOARD, *command]


def on_board(processor: str, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command_on_board(processor, *command, **env), capture_output=True, text=True, timeout=900, check=False
    )


@pytest.fixture(scope="module")
def installed(demo: dict[str, Path]) -> Iterator[dict[str, str]]:
    """target -> what its install script said, the bundles installed in /opt/<target>."""
    said = {}
    base = Path(BOARD) / "opt"
    for target, processor in PROCESSORS.items():
        for old in (base / target, base / f"bundle-{target}"):
            shutil.rmtree(old, ignore_errors=True)
        tar = base / f"{target}.tar"
        tar.unlink(missing_ok=True)
        assert main(["bundle", str(demo["balanced"]), "--target", target, "--python", "3.11", "-o", str(tar)]) == 0
        with tarfile.open(tar) as file:
            file.extractall(base / f"bundle-{target}", filter="data")
        tar.unlink()
        done = on_board(processor, "sh", f"/opt/bundle-{target}/edge-lfm/install.sh", f"/opt/{target}")
        assert done.returncode == 0, done.stdout + done.stderr
        said[target] = done.stdout
    yield said


@pytest.mark.parametrize("target", PROCESSORS)
def test_the_same_tokens_as_here(installed: dict[str, str], target: str) -> None:
    """The install script's self-test compares the demo model's answers with those of this machine's kernels."""
    assert re.search(rf"self-test: {TIERS[target]}, [1-9]\d+ tokens .* all as expected", installed[target])
    size = re.search(r"installed: (\d+) MB without models", installed[target])
    assert size and int(size[1]) < 100


def test_the_bundled_model_answers(installed: dict[str, str]) -> None:
    done = on_board("cortex-a76", "/opt/cortex-a76/bin/edge-lfm", "run", "/opt/cortex-a76/model", "Hello", "-n", "8")
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    doctor = on_board("cortex-a76", "/opt/cortex-a76/bin/edge-lfm", "doctor")
    assert "dotprod, prebuilt for cortex-a76" in doctor.stdout and "numba missing" in doctor.stdout


def test_another_board_gets_a_sentence(installed: dict[str, str]) -> None:
    """Not an illegal instruction."""
    done = on_board("cortex-a72", "/opt/cortex-a76/bin/edge-lfm", "run", "/opt/cortex-a76/model", "Hello")
    assert done.returncode != 0 and "this processor lacks asimddp" in done.stderr and "Traceback" not in done.stderr
    again = on_board("cortex-a72", "sh", "/opt/bundle-cortex-a76/edge-lfm/install.sh", "/opt/again")
    assert again.returncode == 1 and "lacks asimddp" in again.stderr
    shutil.rmtree(Path(BOARD) / "opt" / "again")


def test_the_board_serves(installed: dict[str, str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "/opt/cortex-a76/bin/edge-lfm"
    command = command_on_board("cortex-a76", program, "serve", "/opt/cortex-a76/model", "--port", str(port))
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:
        try:
            body = {"model": "model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
            for _ in range(120):
                time.sleep(1)
                try:
                    answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)
                    break
                except httpx.ConnectError:
                    assert server.poll() is None
            assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"]
        finally:
            server.terminate()


def test_every_kernel_on_every_tier_of_arm(installed: dict[str, str]) -> None:
    """`test_kernels.py` and `test_rounding.py` themselves, run by the board's Python."""
    there = Path(BOARD) / "opt" / "tests"
    shutil.rmtree(there, ignore_errors=True)
    for folder in ("tests", "tools"):
        shutil.copytree(ROOT / folder, there / folder, ignore=shutil.ignore_patterns("__pycache__", "demo_model"))
    (there / "kernels").mkdir()
    for target in PROCESSORS:
        for file in (Path(BOARD) / "opt" / target / "kernels").iterdir():
            shutil.copy(file, there / "kernels")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(there / "lib"), "pytest"]
    subprocess.run(pip, check=True, timeout=300)
    command = [
        "python3",
        "-sP",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir=/opt/tests",
    ]
    done = on_board(
        "max",
        *command,
        "/opt/tests/tests/test_kernels.py",
        PYTHONPATH="/opt/tests/lib:/opt/cortex-a76/lib:/opt/tests/tests",
        EDGE_LFM_KERNELS="/opt/tests/kernels",
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) > 700, done.stdout[-2000:]
