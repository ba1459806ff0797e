"""A model's files that are cut, removed or exchanged while it is served: told, and loaded again when they are back."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import serving
from starlette.testclient import TestClient

from edge_lfm.api import LoadOptions
from edge_lfm.engine.runner import Runner
from edge_lfm.errors import NumericalError
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.server.app import make_app
from edge_lfm.server.settings import Settings

pytestmark = pytest.mark.slow

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."


def ask(address: str, **options: Any) -> tuple[int, str]:
    answer = httpx.post(f"{address}/v1/chat/completions", json={"messages": CAPITAL, **options}, timeout=30)
    told = answer.json()
    return answer.status_code, told["error"]["message"] if "error" in told else told["choices"][0]["message"]["content"]


def health(address: str) -> tuple[int, str]:
    answer = httpx.get(f"{address}/health", timeout=30)
    return answer.status_code, answer.json()["status"]


def test_weights_that_are_cut_and_come_back(demo: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo["int4"], folder)
    weights, moved = folder / "model.safetensors", tmp_path / "away"
    raw = weights.read_bytes()
    with serving(str(folder)) as address:
        assert ask(address) == (200, PARIS) and health(address) == (200, "ok")
        os.truncate(weights, 100_000)
        status, message = ask(address)
        assert status == 503 and "model.safetensors" in message
        assert health(address) == (503, "gone")
        weights.write_bytes(raw)
        assert ask(address) == (200, PARIS) and health(address) == (200, "ok")
        folder.rename(moved)
        assert ask(address)[0] == 503 and health(address) == (503, "gone")
        moved.rename(folder)
        deadline = time.monotonic() + 20
        while health(address) != (200, "ok"):  # without a request: a balancer sends none while it is not well
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert ask(address) == (200, PARIS)


def test_a_tokenizer_that_is_exchanged_is_loaded_whole(demo: dict[str, Path], tmp_path: Path) -> None:
    """Grammars are of the tokenizer that decodes the answer: one choice comes out, whatever it means to the model."""
    folder = tmp_path / "model"
    shutil.copytree(demo["int4"], folder)
    with serving(str(folder)) as address:
        assert ask(address) == (200, PARIS)
        settings = json.loads((folder / "tokenizer.json").read_text())
        vocabulary = settings["model"]["vocab"]
        ids = list(vocabulary.values())
        settings["model"]["vocab"] = dict(zip(vocabulary, ids[:300] + ids[300:][::-1], strict=True))
        (folder / "tokenizer.json").write_text(json.dumps(settings))
        bound = {"response_format": {"type": "choice", "choices": ["yes", "no"]}, "max_tokens": 20}
        status, text = ask(address, **bound)
        assert status == 200 and text in ("yes", "no")


def test_weights_that_are_no_numbers(demo: dict[str, Path], tmp_path: Path) -> None:
    """Every way to ask ends in an error that names it; a file that is sound again is loaded without a restart."""
    folder = tmp_path / "model"
    shutil.copytree(demo["int4"], folder)
    weights = folder / "model.safetensors"
    raw = weights.read_bytes()
    with PackedModel(folder) as model:
        at = model.offset_of("model.layers.3.operator_norm.weight")
    weights.write_bytes(raw[:at] + np.float32("nan").tobytes() + raw[at + 4 :])
    with serving(str(folder)) as address:
        for _ in range(2):
            status, message = ask(address)
            assert status == 503 and "NaN" in message and "edge-lfm verify" in message
        for path, body, code in (
            ("chat/completions", {"messages": CAPITAL, "stream": True}, 200),
            ("completions", {"prompt": "a b", "echo": True, "logprobs": 1}, 503),
            ("responses", {"input": "Hi"}, 503),
        ):
            answer = httpx.post(f"{address}/v1/{path}", json=body, timeout=30)
            assert answer.status_code == code and "NaN" in answer.text and "internal" not in answer.text
        assert health(address) == (503, "broken")
        weights.write_bytes(raw)
        assert ask(address) == (200, PARIS) and health(address) == (200, "ok")


def test_a_broken_answer_is_told_once_and_until_another_is_sound(
    demo: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights that few prompts meet: whoever asks for them cannot keep a server out of a balancer's list."""
    check, broken = Runner._check_outcome, [False]

    def check_outcome(runner: Runner) -> None:
        check(runner)
        if broken[0]:
            raise NumericalError("a NaN or an infinity appeared in the activations")

    monkeypatch.setattr(Runner, "_check_outcome", check_outcome)
    app = make_app(Settings(load=LoadOptions(demo["int4"], threads=1, context=512)))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for broken[0], status, health_status in ((True, 503, "broken"), (True, 503, "broken"), (False, 200, "ok")):
            assert client.post("/v1/chat/completions", json={"messages": CAPITAL}).status_code == status
            client.post("/tokenize", json={"content": "computes nothing"})
            told = client.get("/health")
            assert (told.status_code, told.json()["status"]) == (status, health_status)
        figures = client.get("/metrics").text
    assert 'edge_lfm_requests_total{outcome="failed"} 2.0' in figures and 'outcome="cancelled"' not in figures
    assert sum("is broken" in record.message for record in caplog.records) == 1
