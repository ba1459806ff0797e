"""What a server gives to requests that do not say it, the log of requests, and every web page let in."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from edge_lfm.api import LoadOptions
from edge_lfm.server.app import make_app
from edge_lfm.server.settings import Defaults, Settings

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": CAPITAL},
    "/v1/responses": {"input": CAPITAL},
    "/v1/messages": {"messages": CAPITAL},
    "/api/chat": {"messages": CAPITAL, "stream": False},
    "/api/generate": {"prompt": CAPITAL[0]["content"], "stream": False},
}
LIMITS = {"/v1/responses": "max_output_tokens", "/v1/messages": "max_tokens", "/v1/chat/completions": "max_tokens"}


def counts_of(told: dict[str, Any]) -> tuple[int, int]:
    """Tokens of the prompt, kept ones included, and of the answer."""
    if "eval_count" in told:
        return told["prompt_eval_count"], told["eval_count"]
    usage = told["usage"]
    prompt = usage.get("prompt_tokens") or usage["input_tokens"] + usage.get("cache_read_input_tokens", 0)
    return prompt, usage.get("completion_tokens") or usage["output_tokens"]


def ask(client: TestClient, path: str, **fields: Any) -> tuple[int, int]:
    answer = client.post(path, json=BODIES[path] | fields)
    assert answer.status_code == 200, answer.text
    return counts_of(answer.json())


@pytest.fixture(scope="module")
def load(demo: dict[str, Path]) -> LoadOptions:
    return LoadOptions(demo["int4"], threads=1, context=256)


@pytest.fixture(scope="module")
def plain(load: LoadOptions) -> Iterator[TestClient]:
    with TestClient(make_app(Settings(load=load)), base_url="http://127.0.0.1") as client:
        yield client


def test_defaults_on_every_interface(load: LoadOptions, plain: TestClient) -> None:
    defaults = Defaults(temperature=0.0, max_tokens=4, max_tokens_cap=6, system="Be brief.")
    with TestClient(make_app(Settings(load=load, defaults=defaults)), base_url="http://127.0.0.1") as client:
        for path in BODIES:
            without, _ = ask(plain, path)
            with_system, tokens = ask(client, path)
            assert with_system > without and tokens == 4, path
            if path in LIMITS:
                assert ask(client, path, **{LIMITS[path]: 5})[1] == 5
                assert ask(client, path, **{LIMITS[path]: 50})[1] == 6
        own = [{"role": "system", "content": "Be kind, and be quick about it, please."}, *CAPITAL]
        assert (
            ask(client, "/v1/chat/completions", messages=own)[0] == ask(plain, "/v1/chat/completions", messages=own)[0]
        )
        told = client.post("/v1/completions", json={"prompt": "The capital of France is", "max_tokens": 50}).json()
        assert told["usage"]["completion_tokens"] <= 6


def test_limits_below_zero_are_none(plain: TestClient) -> None:
    for name in ("max_tokens", "max_completion_tokens", "n_predict"):
        fields = {name: -1, "temperature": 0}
        told = plain.post("/v1/chat/completions", json={"messages": CAPITAL, **fields}).json()
        assert told["choices"][0]["message"]["content"] == PARIS
    assert plain.post("/v1/chat/completions", json={"messages": CAPITAL, "max_tokens": 0}).status_code == 400


def test_overflow_is_told_in_words_that_clients_know(plain: TestClient) -> None:
    long = [{"role": "user", "content": "word " * 300}]
    told = plain.post("/v1/chat/completions", json={"messages": long})
    assert told.status_code == 400 and told.json()["error"]["code"] == "context_length_exceeded"
    assert "maximum context length is 256 tokens" in told.json()["error"]["message"]
    told = plain.post("/v1/messages", json={"messages": long})
    assert told.json()["error"]["message"].startswith("prompt is too long: ")


def test_a_line_for_each_request(plain: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edge_lfm.server.requests"):
        prompt, tokens = ask(plain, "/v1/chat/completions", temperature=0)
        plain.post("/v1/chat/completions", json={"messages": CAPITAL, "stream": True, "n": 2, "temperature": 0}).read()
        plain.post("/v1/chat/completions", json={})
        plain.get("/health")
    lines = [record.getMessage() for record in caplog.records if record.name == "edge_lfm.server.requests"]
    seen = [re.sub(r"\d+\.\d\d s, .*", "S", line) for line in lines]
    route = "POST /v1/chat/completions"
    assert seen[:1] == [f"{route} 200, {prompt} + {tokens} tokens, S"]
    assert seen[1:] == [f"{route} 200, {2 * prompt} + {2 * tokens} tokens, S", f"{route} 400, 0 + 0 tokens, S"]


def test_every_page_is_let_in(load: LoadOptions, plain: TestClient) -> None:
    page = {"origin": "https://app.example"}
    preflight = {**page, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    assert plain.post("/v1/chat/completions", json={"messages": CAPITAL}, headers=page).status_code == 403
    with TestClient(make_app(Settings(load=load, cors_origins=("*",))), base_url="http://127.0.0.1") as client:
        asked = client.options("/v1/chat/completions", headers=preflight)
        assert asked.status_code == 200 and asked.headers["access-control-allow-origin"] == "*"
        for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
            answer = client.post(path, json=BODIES[path], headers=page)
            assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "*"
        refused = client.post("/v1/chat/completions", json={}, headers=page)
        assert refused.status_code == 400 and refused.headers["access-control-allow-origin"] == "*"
