"""A model's files that are cut, removed or exchanged while it is served: told, and loaded again when they are back."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import serving

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
