"""A server that comes back after a fault in native code, and one that always ends when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from serving import serving

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
pytestmark = pytest.mark.slow
linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at children in /proc")


def child_of(pid: int) -> int:
    """The only child of a process."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def wait_until_dead(pid: int) -> None:
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError(f"process {pid} still runs")


def ask(address: str) -> str:
    answer = httpx.post(f"{address}/v1/chat/completions", json={"messages": CAPITAL, "temperature": 0}, timeout=30)
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


@linux
@pytest.mark.parametrize("fault", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_fault_in_native_code_costs_seconds(demo: dict[str, Path], fault: signal.Signals) -> None:
    server = serving(str(demo["int4"]), "--restart")
    with server as address:
        for _ in range(2):
            assert ask(address) == PARIS
            died = child_of(server.process.pid)
            started = time.monotonic()
            os.kill(died, fault)
            wait_until_dead(died)
            assert ask(address) == PARIS  # the socket is open all the time: it waits
            assert time.monotonic() - started < 15
            assert child_of(server.process.pid) != died
    assert f"ended by {fault.name}" in server.errors and "the server is back" in server.errors


@linux
def test_the_child_ends_with_its_parent(demo: dict[str, Path]) -> None:
    server = serving(str(demo["int4"]), "--restart")
    with pytest.raises(AssertionError), server:  # it does not end with 0
        child = child_of(server.process.pid)
        server.process.kill()
    wait_until_dead(child)


def test_what_cannot_start_is_not_started_again(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "serve", str(tmp_path), "--restart", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and "error:" in done.stderr and "again" not in done.stderr


ENDLESS = """
import sys
from edge_lfm.api import Model
from edge_lfm.cli.main import main

def hold(self, *_, **__):
    while True:
        pass

Model.prepare = hold
sys.exit(main(sys.argv[1:]))
"""


def test_the_end_comes_whatever_still_runs(demo: dict[str, Path]) -> None:
    """A thread that never ends keeps Python's own exit waiting for ever."""
    command = [sys.executable, "-c", ENDLESS, "serve", str(demo["int4"]), "--port", "0", "--json", "--grace", "0.5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    address = process.stdout.readline().split('"')[3]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{address}/v1/chat/completions", json={"messages": CAPITAL}, timeout=1)
    process.terminate()
    process.wait(10)
    process.stdout.close()
