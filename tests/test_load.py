"""The load test of `make crowd` for some seconds: of 64 clients half leave their answers, and no other is lost."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from conftest import ROOT
from serving import serving

pytestmark = pytest.mark.slow
CLIENTS = 64


@pytest.fixture(scope="module")
def soak() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("soak", ROOT / "benchmarks/soak.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["soak"]


def test_of_many_clients_half_leave_and_no_answer_is_lost(soak: ModuleType, demo: dict[str, Path]) -> None:
    tally = soak.Tally()
    with serving(str(demo["int4"]), "--queue", str(CLIENTS)) as address:
        clients = soak.make_clients(address, CLIENTS, tally, True)
        until = time.monotonic() + 5
        threads = [threading.Thread(target=client.run, args=(until,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert tally.faults == []
        assert min(tally.status["whole"], tally.status["left"]) >= CLIENTS // 2
        with httpx.Client(base_url=address, timeout=60) as http:
            end = time.monotonic() + 30
            while "edge_lfm_active_requests 0.0" not in (told := http.get("/metrics").text):
                assert time.monotonic() < end, told
                time.sleep(0.1)
