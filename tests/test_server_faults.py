"""What a server meets: malformed bodies, hostile numbers, strangers, clients that leave, queues that are full."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from serving import serving
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.slow

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
ENDLESS = {"temperature": 5, "logit_bias": {"7": -100, "2": -100}}


@pytest.fixture(scope="module")
def address(demo: dict[str, Path]) -> Iterator[str]:
    with serving(str(demo["int4"]), "--context", "512") as where:
        yield where


@pytest.fixture(scope="module")
def slow(demo: dict[str, Path]) -> Iterator[str]:
    """One answer at a time, on kernels without SIMD, so that there is time to leave; two may wait."""
    with serving(str(demo["balanced"]), "--parallel", "1", "--queue", "2", EDGE_LFM_ISA="portable") as where:
        yield where


def post(address: str, body: Any, path: str = "/v1/chat/completions", **options: Any) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **options.pop("headers", {})}
    return httpx.post(address + path, content=raw, headers=headers, timeout=30, **options)


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    """The error of a response that must be OpenAI's error JSON."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert "Traceback" not in error["message"]
    return error


def well(address: str) -> None:
    assert post(address, {"messages": CAPITAL}).json()["choices"][0]["message"]["content"] == PARIS


BODIES = [
    b"", b" ", b"{", b"[]", b"null", b"7", b'"x"', b"{}", b'{"messages": []}', b'{"messages": {}}',
    b'{"messages": null}', b"[" * 100_000, b'{"a":' * 50_000, b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00",
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"messages": [{"role": "user", "content": "\xff"}]}', b'{"messages": [{"role": "user", "content": NaN}]}',
    b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}', b'{"messages": [{"content": "x"}]}',
    b'{"messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}", b'{"messages": ["x"]}',
    b'{"messages": [{"role": "wizard", "content": "x"}]}', b'{"messages": [{"role": "user", "content": 3}]}',
    b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}',
    b'{"messages": [{"role": "user", "content": "x"}], "model": ["gpt-4o"]}',
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_malformed_bodies(address: str, body: bytes) -> None:
    refused(post(address, body))
    refused(post(address, body, "/v1/responses"))
    if b"temperature" not in body and b"seed" not in body and b"model" not in body:  # it knows messages only
        refused(post(address, body, "/apply-template"))


NUMBERS = [-1, 0, 1 << 31, 1 << 63, 1 << 64, 10**30, 1.5, -0.5, 1e308, "1", True, [], {}]
FIELDS = [
    "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
    "n", "max_tokens", "max_completion_tokens", "top_logprobs", "dry_multiplier", "dry_base", "dry_allowed_length",
    "xtc_probability", "xtc_threshold", "lookup", "max_drafts", "stop", "stream_options", "tools", "logit_bias",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_hostile_values_of_every_field(address: str, field: str) -> None:
    """Each is refused by its name, or within its range; nothing else."""
    for value in NUMBERS:
        response = post(address, {"messages": CAPITAL, "max_tokens": 2, field: value})
        assert response.status_code in (200, 400), response.text
        if response.status_code == 400:
            error = refused(response)
            assert field in str(error["param"]) + error["message"] or "repeat_penalty" in error["message"]
    assert post(address, {"messages": CAPITAL, "max_tokens": 2, field: None}).status_code == 200
    well(address)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"n": 10**6}, "n"),
        ({"stop": [f"s{n}" for n in range(100_000)]}, "stop"),
        ({"stop": ["x" * 10_000]}, "stop"),
        ({"logit_bias": {str(n): 1 for n in range(10_000)}}, "logit_bias"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 1000}}, "logit_bias"),
        ({"messages": CAPITAL * 11_000}, "messages"),
        ({"tools": [{}] * 10_000}, "tools"),
        ({"top_logprobs": 10**6, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_object", "soft": 2}, "tools": [{"function": {"name": "f"}}]},
            "response_format",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "foo"}}}}, "foo"),
        ({"response_format": {"type": "regex", "regex": "(a"}}, "regular expression"),
        ({"response_format": {"type": "choice", "choices": []}}, "choices"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}, "tools": [{"name": "f"}]}, "no tool"),
        ({"tools": [{"name": "f"}, {"name": "f"}]}, "same name"),
        ({"tools": [{"name": "f", "parameters": {"properties": {"a": {"type": "foo"}}}}]}, "foo"),
        ({"tools": [{"name": "f", "parameters": {"properties": {"a": False}, "required": ["a"]}}]}, "tool f"),
        ({"functions": [{}]}, "functions"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": 3}]}]}, "tool_calls"),
    ],
)
def test_what_is_too_much_or_not_supported_is_refused(address: str, changes: dict[str, Any], word: str) -> None:
    error = refused(post(address, {"messages": CAPITAL} | changes))
    assert word in str(error["param"]) + error["message"]
    well(address)


def test_prompts_around_the_context(address: str) -> None:
    def ask(count: int, path: str = "/v1/completions", **options: Any) -> httpx.Response:
        return post(address, {"prompt": [300] * count, "max_tokens": 4, **options}, path)

    assert ask(511).json()["usage"]["total_tokens"] <= 513
    assert ask(512).json()["choices"][0]["finish_reason"] in ("length", "stop")
    error = refused(ask(513))
    assert error["code"] == "context_length_exceeded" and "513" in error["message"] and "512" in error["message"]
    refused(ask(0))
    refused(post(address, {"prompt": [1 << 40]}, "/v1/completions"))
    refused(post(address, {"prompt": [300, "x"]}, "/v1/completions"))
    refused(post(address, {"prompt": [4096]}, "/v1/completions"))
    long = [*CAPITAL, {"role": "assistant", "content": PARIS}] * 40 + CAPITAL
    assert refused(post(address, {"messages": long}))["code"] == "context_length_exceeded"
    shortened = post(address, {"messages": long, "truncation": "auto"}).json()
    assert shortened["dropped_messages"] > 10 and shortened["choices"][0]["message"]["content"] == PARIS
    unlimited = post(address, {"messages": CAPITAL, **ENDLESS})
    assert unlimited.json()["choices"][0]["finish_reason"] == "length"


def test_unknown_paths_and_methods(address: str) -> None:
    assert refused(httpx.get(f"{address}/v1/nothing"), 404)
    assert refused(httpx.get(f"{address}/v1/chat/completions"), 405)
    for path in ("/../../etc/passwd", "/%2e%2e/etc/passwd", "/v1/models/../../x", "/v1/models/%0d%0aX:y", "//etc"):
        assert raw(address, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")[0] == 404


def raw(address: str, text: str | bytes) -> tuple[int, bytes]:
    """Status and bytes of the answer to raw bytes; 0 if the server has hung up on them."""
    answer = b""
    where = (urlsplit(address).hostname, urlsplit(address).port)
    with socket.create_connection(where, timeout=10) as s, contextlib.suppress(ConnectionError):
        s.sendall(text.encode() if isinstance(text, str) else text)
        while part := s.recv(65536):
            answer += part
    return int(answer.split()[1]) if answer else 0, answer


def test_strangers(address: str) -> None:
    """DNS rebinding, pages from elsewhere, forms: none gets in, and nothing is reflected."""
    body = {"messages": CAPITAL}
    for host in ("evil.com", "localhost.evil.com", "127.0.0.1.evil.com", ""):
        refused(post(address, body, headers={"host": host}), 403)
    for origin in ("http://evil.com", "null", "http://localhost:1", "file://", "http://127.0.0.1.evil.com"):
        response = post(address, body, headers={"origin": origin})
        refused(response, 403)
        assert not any(name.startswith("access-control") for name in response.headers)
    assert post(address, body, headers={"origin": address}).status_code == 200
    assert post(address, body, headers={"host": "192.168.1.7:8080"}).status_code == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        refused(post(address, body, headers={"content-type": kind}), 415)
    preflight = httpx.options(address + "/v1/chat/completions", headers={"origin": "http://evil.com"})
    assert preflight.status_code == 403
    with pytest.raises(InvalidStatus):
        connect(address.replace("http", "ws") + "/v1/stream", origin="http://evil.com").close()


def test_keys_hosts_and_origins(demo: dict[str, Path]) -> None:
    arguments = ("--api-key", "sésame", "--allow-host", "my.lan", "--cors-origin", "https://app.example")
    with serving(str(demo["int4"]), *arguments) as address:
        body = {"messages": CAPITAL}
        bad = [
            "",
            "Bearer wrong",
            "Bearer sésam",
            "Bearer sésame2",
            "Basic sésame",
            "sésame",
            "Bearer " + "x" * 50_000,
        ]
        for key in bad:
            response = post(address, body, headers={"authorization": key.encode()})
            assert response.status_code in (401, 431, 400) and "sésame" not in response.text
        refused(post(address, body), 401)
        refused(httpx.get(f"{address}/metrics"), 401)
        assert httpx.get(f"{address}/health").status_code == httpx.get(address).status_code == 200
        right = {"authorization": "Bearer sésame".encode()}
        assert post(address, body, headers=right).status_code == 200
        twice = [("authorization", "Bearer sésame".encode()), ("authorization", b"Bearer x")]
        doubled = httpx.post(f"{address}/v1/chat/completions", json=body, headers=twice)
        assert doubled.status_code == 401
        assert post(address, body, headers=right | {"host": "my.lan"}).status_code == 200
        page = post(address, body, headers=right | {"origin": "https://app.example"})
        assert page.headers["access-control-allow-origin"] == "https://app.example"
        asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
        assert httpx.options(f"{address}/v1/chat/completions", headers=asked).status_code == 200
        refused(post(address, body, headers=right | {"origin": "https://other.example"}), 403)
        with pytest.raises((InvalidStatus, ConnectionClosed)):
            connect(address.replace("http", "ws") + "/v1/stream").close()


def test_any_origin(demo: dict[str, Path]) -> None:
    with serving(str(demo["int4"]), "--cors-origin", "*") as address:
        for origin in ("app://notes.example", "https://app.example", "null"):
            answer = post(address, {"messages": CAPITAL}, headers={"origin": origin})
            assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == "*"
            asked = {"origin": origin, "access-control-request-method": "POST"}
            assert httpx.options(f"{address}/v1/chat/completions", headers=asked).status_code == 200


def test_bodies_that_are_too_large_or_never_end(address: str) -> None:
    for size in (9 << 20, 40 << 20):
        refused(post(address, b"x" * size), 413)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    assert raw(address, head + "Content-Length: 99999999999\r\n\r\n")[0] == 413
    chunk = f"{1 << 20:x}\r\n" + "x" * (1 << 20) + "\r\n"
    status, _ = raw(address, head + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunk * 9)
    assert status == 413
    assert raw(address, "GET / HTTP/1.1\r\nHost: localhost\r\nX: " + "x" * 200_000 + "\r\n\r\n")[0] in (400, 431)
    assert raw(address, "GET /" + "x" * 200_000 + " HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] in (400, 414)
    assert raw(address, "\x16\x03\x01 not http\r\n\r\n")[0] == 400
    assert raw(address, "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")[0] == 400  # no Host at all
    well(address)


def test_many_idle_connections_leave_room(address: str) -> None:
    where = (urlsplit(address).hostname, urlsplit(address).port)
    idle = [socket.create_connection(where) for _ in range(300)]
    for n, s in enumerate(idle):
        s.sendall(b"POST /v1/chat" if n % 2 else b"GET / HTTP/1.1\r\nHost")
    well(address)
    for s in idle:
        s.close()


def active(address: str) -> float:
    text = httpx.get(f"{address}/metrics", timeout=30).text
    gauges = ("edge_lfm_active_requests", "edge_lfm_waiting_requests")
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(gauges))


def wait_until(condition: Callable[[], bool], seconds: float) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.01)
    return time.monotonic() - started


def request_bytes(body: dict[str, Any], path: str = "/v1/chat/completions") -> bytes:
    text = json.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode()


LONG = {"prompt": "The cat sat on the mat. " * 200, "max_tokens": 1}


@pytest.mark.parametrize("way", ["close", "reset", "half-close"])
@pytest.mark.parametrize("phase", ["head", "prefill", "decode", "whole"])
def test_a_client_that_leaves_stops_its_answer(slow: str, way: str, phase: str) -> None:
    """Before the request is whole, while the prompt is read, while an answer streams, while one is made unseen."""
    assert active(slow) == 0
    body = {"messages": CAPITAL, "stream": phase == "decode", **ENDLESS}
    data = request_bytes(body)
    if phase == "prefill":
        data = request_bytes({**LONG, "prompt": f"{way} {LONG['prompt']}"}, "/v1/completions")
    s = socket.create_connection((urlsplit(slow).hostname, urlsplit(slow).port))
    s.sendall(data[: 60 if phase == "head" else None])
    if phase == "decode":
        text = b""
        while text.count(b"data: ") < 5:
            text += s.recv(4096)
    elif phase != "head":
        wait_until(lambda: active(slow) == 1, 5)
    if way == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    if way == "half-close":
        s.shutdown(socket.SHUT_WR)
    else:
        s.close()
    assert wait_until(lambda: active(slow) == 0, 2) < 1  # the answer or prompt would take several seconds
    s.close()


def test_one_who_leaves_the_queue_hurts_no_other(slow: str) -> None:
    found: list[str] = []
    body = {"messages": CAPITAL, "temperature": 0}
    holder = socket.create_connection((urlsplit(slow).hostname, urlsplit(slow).port))
    holder.sendall(request_bytes({"messages": CAPITAL, **ENDLESS}))
    wait_until(lambda: active(slow) == 1, 5)
    waiting = threading.Thread(target=lambda: found.append(post(slow, body).json()["choices"][0]["message"]["content"]))
    waiting.start()
    wait_until(lambda: active(slow) == 2, 5)
    leaver = socket.create_connection((urlsplit(slow).hostname, urlsplit(slow).port))
    leaver.sendall(request_bytes(body))
    wait_until(lambda: active(slow) == 3, 5)
    full = post(slow, body)  # two wait already
    assert refused(full, 429)["type"] == "rate_limit_error" and int(full.headers["retry-after"]) > 0
    streamed = post(slow, body | {"stream": True})
    assert refused(streamed, 429)
    leaver.close()
    wait_until(lambda: active(slow) == 2, 5)
    holder.close()
    waiting.join()
    assert found == [PARIS]


def test_a_slow_reader_delays_no_one(address: str) -> None:
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect((urlsplit(address).hostname, urlsplit(address).port))
    s.sendall(request_bytes({"messages": CAPITAL, "stream": True, "logprobs": True, "top_logprobs": 20, **ENDLESS}))
    time.sleep(0.3)
    for _ in range(5):
        well(address)
    s.close()
    wait_until(lambda: active(address) == 0, 5)


def test_64_clients_are_all_served_in_turn(demo: dict[str, Path]) -> None:
    with serving(str(demo["int4"]), "--parallel", "1", "--queue", "100") as address:
        waits: list[float] = []
        rng = random.Random(0)

        def ask(n: int) -> None:
            started = time.monotonic()
            text = post(address, {"messages": CAPITAL, "max_tokens": rng.choice([20, 40])}).json()
            assert text["choices"][0]["message"]["content"] == PARIS
            waits.append(time.monotonic() - started)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(waits) == 64


def test_half_a_character_never_leaves_the_server(address: str) -> None:
    """At this temperature the demo model writes bytes that are no UTF-8: they become U+FFFD, streamed or not."""
    for seed in range(12):
        body = {"prompt": "日本 🎉 é", "max_tokens": 120, "temperature": 3, "seed": seed}
        whole = post(address, body, "/v1/completions")
        text = whole.content.decode("utf-8")
        with httpx.stream("POST", f"{address}/v1/completions", json=body | {"stream": True}) as response:
            streamed = b"".join(response.iter_bytes()).decode("utf-8")
        pieces = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
        joined = "".join(p["choices"][0]["text"] for p in pieces if p["choices"])
        assert joined == json.loads(text)["choices"][0]["text"]


def test_a_template_that_refuses(demo: dict[str, Path], tmp_path: Path) -> None:
    for file in demo["int4"].iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "chat_template.jinja").unlink()
    source = (demo["int4"] / "chat_template.jinja").read_text(encoding="utf-8")
    alternate = (
        "{%- for m in messages %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{%- endif %}{%- endfor %}"
    )
    (tmp_path / "chat_template.jinja").write_text(alternate + source, encoding="utf-8")
    with serving(str(tmp_path)) as address:
        assert "roles must alternate" in refused(post(address, {"messages": CAPITAL * 2}))["message"]
        assert "roles must alternate" in refused(post(address, {"messages": CAPITAL * 2, "stream": True}))["message"]
        well(address)


def test_the_model_is_given_up_when_idle_and_comes_back(demo: dict[str, Path]) -> None:
    with serving(str(demo["int4"]), "--unload-after", "0.4") as address:
        well(address)
        wait_until(lambda: httpx.get(f"{address}/health").json()["status"] == "idle", 5)
        assert "edge_lfm_loaded 0.0" in httpx.get(f"{address}/metrics").text
        well(address)
        assert httpx.get(f"{address}/health").json()["status"] == "ok"


def test_a_signal_ends_the_server_with_its_answers(demo: dict[str, Path]) -> None:
    """A short answer is finished; one that takes longer than the grace ends with an error event; the exit code is 0."""
    for grace, ends in (("20", "[DONE]"), ("0.2", "error")):
        server = serving(str(demo["balanced"]), "--grace", grace, EDGE_LFM_ISA="portable")
        with server as address:
            body = {"messages": CAPITAL, "stream": True, "max_tokens": 300 if grace == "20" else None, **ENDLESS}
            with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=30) as response:
                lines = response.iter_lines()
                next(lines)
                server.process.send_signal(signal.SIGTERM)
                rest = "\n".join(lines)
            assert ends in rest.splitlines()[-2 if ends == "[DONE]" else -4] or ends in rest[-300:]
            assert server.process.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--host", "0.0.0.0"), "no API key"),
        (("--host", "203.0.113.9", "--insecure"), "cannot listen"),
        (("--port", "99999"), "port 99999"),
        (("--queue", "-1"), "--queue"),
        (("--parallel", "0"), "parallel"),
        (("--cache", "lots"), "not a size"),
        (("--cors-origin", "app.example"), "no origin"),
        (("--cors-origin", "https://app.example/"), "no origin"),
    ],
)
def test_bad_starts(demo: dict[str, Path], arguments: tuple[str, ...], word: str) -> None:
    done = start(str(demo["int4"]), *arguments)
    assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr


def test_a_port_that_is_taken(demo: dict[str, Path], address: str) -> None:
    done = start(str(demo["int4"]), "--port", str(urlsplit(address).port))
    assert done.returncode == 2 and "is taken" in done.stderr
    assert start("./absent").returncode == 3


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_next_request_of_a_socket_may_come_at_once(demo: dict[str, Path]) -> None:
    """Also while another answer takes its turns, of some milliseconds: what is said when an answer has ended is a
    request, and does not stop it."""
    with serving(str(demo["balanced"]), "--parallel", "2", EDGE_LFM_ISA="portable") as address:
        where = address.replace("http", "ws") + "/v1/stream"
        with connect(where) as other, connect(where) as asking:
            other.send(json.dumps({"messages": CAPITAL, "max_tokens": 1900, **ENDLESS}))
            for _ in range(20):
                asking.send(json.dumps({"messages": CAPITAL}))
                while (event := json.loads(asking.recv()))["type"] != "done":
                    pass
                assert event["finish_reason"] == "stop"
