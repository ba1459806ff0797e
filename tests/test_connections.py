"""Connections that wait, that are too many, or that speak no HTTP: bounded, answered in JSON, others served."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn
from websockets.sync.client import connect

from edge_lfm.server import connections, logs
from edge_lfm.server.connections import Protocol
from edge_lfm.server.serve import _listen, _Server

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with its path; `/slow` never ends."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await receive()
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(3600)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def served() -> Iterator[tuple[Callable[..., socket.socket], uvicorn.Server]]:
    """The app behind our protocol, in a thread; what opens a connection to it and sends some bytes."""
    with _listen("127.0.0.1", 0) as listener, ExitStack() as clients:

        def opened(data: bytes = b"") -> socket.socket:
            client = clients.enter_context(socket.create_connection(listener.getsockname(), timeout=10))
            client.sendall(data)
            return client

        config = uvicorn.Config(app, http=Protocol, ws="websockets-sansio", lifespan="off", log_config=None)
        server = _Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            yield opened, server
        finally:
            server.should_exit = server.force_exit = True
            thread.join(10)


def rest(client: socket.socket) -> bytes:
    """All that comes until the other side hangs up."""
    parts = []
    try:
        while part := client.recv(65536):
            parts.append(part)
    except ConnectionError:
        pass
    return b"".join(parts)


def answered(client: socket.socket) -> bool:
    """Whether the app's answer comes."""
    told = b""
    while not told.endswith(b"ok"):
        part = client.recv(4096)
        if not part:
            return False
        told += part
    return True


def error_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head and b"connection: close" in head.lower()
    error: dict[str, Any] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize("before", [b"", GET, GET * 3], ids=["first", "second", "pipelined"])
@pytest.mark.parametrize("half", [b"", b"GET /health HTTP/1.1\r\nHo"], ids=["idle", "half a head"])
def test_a_head_must_come_in_time(monkeypatch: pytest.MonkeyPatch, before: bytes, half: bytes) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    with served() as (opened, _):
        client = opened(before + half)
        started = time.monotonic()
        assert rest(client).count(b"200 OK") == before.count(b"GET")
        assert 0.3 < time.monotonic() - started < 5


def test_an_answer_may_take_longer_than_a_head_and_so_may_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    with served() as (opened, _):
        slow = opened(GET.replace(b"/ ", b"/slow "))
        with connect("ws://{}:{}/".format(*slow.getpeername())) as talk:
            time.sleep(1)
            talk.send("still here")
            assert talk.recv() == "still here"
        slow.settimeout(0.1)
        with pytest.raises(TimeoutError):
            slow.recv(1)


def test_of_too_many_the_one_goes_that_has_waited_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "max_connections", lambda: 4)
    with served() as (opened, _):
        idle = []
        for _ in range(4):
            idle.append(opened(GET))
            assert answered(idle[-1])
        assert answered(opened(GET))
        assert rest(idle[0]) == b""
        idle[3].sendall(GET)
        assert answered(idle[3])


def test_where_all_are_busy_the_next_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "max_connections", lambda: 2)
    with served() as (opened, server):
        busy = [opened(GET.replace(b"/ ", b"/slow ")) for _ in range(2)]
        while len(server.server_state.tasks) < 2:
            time.sleep(0.01)
        answer = rest(opened())
        assert b" 503 " in answer and "too many" in error_of(answer)["message"]
        assert len(busy) == 2


@pytest.mark.parametrize(
    "sent",
    [b"\x16\x03\x01\x00 not http\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"],
)
@pytest.mark.parametrize("before", [b"", GET])
def test_what_is_no_http_is_told_in_json(sent: bytes, before: bytes) -> None:
    with served() as (opened, _):
        answer = rest(opened(before + sent))
        error_of(answer[answer.index(b"HTTP/1.1 400") :])


def test_small_answers_are_sent_at_once() -> None:
    with served() as (opened, server):
        client = opened(GET)
        client.recv(100)
        (accepted,) = server.server_state.connections
        where = accepted.transport.get_extra_info("socket")
        assert where.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_warning_is_written_once_in_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())  # type: ignore[method-assign]
    handler.addFilter(logs._Once())
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        loop = asyncio.new_event_loop()
        for _ in range(1000):
            logs.handle_loop_error(loop, {"message": "x", "exception": OSError(24, "Too many open files")})
        loop.close()
    finally:
        logger.removeHandler(handler)
    assert told == ["no room for another connection: Too many open files"]
