"""Work of a request that is no step of the model: bounded in time and memory, given up with its client, alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from edge_lfm import Model
from edge_lfm.api import within
from edge_lfm.errors import ContextOverflowError, UsageError
from edge_lfm.server.failures import RequestError
from edge_lfm.server.responses import Responses
from edge_lfm.server.schemas import ResponsesRequest
from edge_lfm.server.service import Service
from edge_lfm.server.settings import Settings
from edge_lfm.server.sizes import check_values
from edge_lfm.server.work import Work

pytestmark = pytest.mark.slow

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."


def post(address: str, body: dict[str, Any], path: str = "/v1/chat/completions") -> httpx.Response:
    raw = json.dumps(body).encode()
    return httpx.post(address + path, content=raw, headers={"content-type": "application/json"}, timeout=60)


def explosive(levels: int, kind: str) -> dict[str, Any]:
    """A schema of a few hundred bytes whose check takes two to the power of `levels` steps."""
    doubled = {f"a{n}": {kind: [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": doubled | {f"a{levels}": {"const": "zzz"}}, "$ref": "#/$defs/a0"}


def form(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}, **more}, "max_tokens": 8}


HOSTILE: dict[str, dict[str, Any]] = {
    "a soft schema that explodes": form(explosive(40, "anyOf"), soft=1) | {"messages": CAPITAL},
    "a pattern that never ends": form({"type": "string", "pattern": "^(a|a)*$"}, soft=1)
    | {"messages": CAPITAL, "max_tokens": 40},
    "a schema that explodes": form(explosive(24, "allOf")) | {"messages": CAPITAL},
    "a hundred thousand choices": {"messages": CAPITAL, "guided_choice": [f"v{n}" for n in range(90_000)]},
    "a word of 7.9 MB": {"messages": [{"role": "user", "content": "a" * 7_900_000}]},
    "spelled control tokens": {"messages": [{"role": "user", "content": "<|im_end|>" * 380_000}]},
    "two million lists": {"messages": CAPITAL, "tool_choice": [[]] * 1_900_000},
    "twenty thousand properties": form({"properties": {f"p{n}": {"type": "integer"} for n in range(20_000)}})
    | {"messages": CAPITAL},
    "a grammar of ever more readings": {
        "messages": CAPITAL,
        "max_tokens": 300,
        "guided_grammar": "start: start start | start | X\nX: /[a-z ]/",
    },
    "ten thousand turns": {"messages": [*CAPITAL, {"role": "assistant", "content": "word " * 140}] * 4999 + CAPITAL},
}


@pytest.mark.slow
@pytest.mark.parametrize("what", HOSTILE)
def test_others_go_on_whatever_one_asks(address: str, what: str) -> None:
    """Refused within its bounds, or answered; others are served all the while."""
    over = threading.Event()
    told: list[int] = []

    def ask() -> None:
        told.append(post(address, HOSTILE[what] | {"temperature": 0}).status_code)
        over.set()

    thread = threading.Thread(target=ask)
    thread.start()
    answers = 0
    while not over.is_set():
        assert post(address, {"messages": CAPITAL}).json()["choices"][0]["message"]["content"] == PARIS
        answers += 1
    thread.join()
    assert told[0] in (200, 400, 413, 422) and answers


def test_a_text_that_cannot_fit_is_refused_before_its_tokens_are_made(model: Model) -> None:
    started = time.monotonic()
    for prompt, raw in (("a" * 7_900_000, False), (" " * 7_900_000, True), ("<|im_end|>" * 300_000, False)):
        with pytest.raises(ContextOverflowError, match="at least"):
            model.generate(prompt, raw=raw, max_tokens=1)
    assert time.monotonic() - started < 20
    ids = [5] * (model.context - 2)
    assert model.generate(ids, max_tokens=1).timings.prompt_tokens == len(ids)


def test_long_texts_have_the_tokens_of_short_ones(model: Model) -> None:
    assert model.tokenizer
    words = ["hello", "wörld", "<|im_end|>", "日本語", "\n\n", "🎉", "    ", "12345"]
    text = " ".join(words[n % 8] for n in range(9000))
    pieces = text.split(" 12345 ")
    whole = " 12345 ".join(pieces)
    assert len(whole) > 20_000
    for special in (False, True):
        ids = model.tokenizer.encode(whole, special=special)
        assert model.tokenizer.decode(ids, special=True) == whole
        short = model.tokenizer.encode(whole[:10_000], special=special)
        assert ids[: len(short) - 20] == short[:-20]


def test_too_many_labels_are_refused_and_long_ones_are_read_in_parts(model: Model) -> None:
    with pytest.raises(UsageError, match="labels"):
        model.classify("x", [f"label {n}" for n in range(1001)])
    long = "word " * 150
    told = model.classify("Say a word.", [long, "yes"])
    assert sum(told.values()) == pytest.approx(1) and told["yes"] > told[long]


def busy() -> None:
    while True:
        pass


def test_an_interruption_never_gets_out() -> None:
    stop = threading.Event()

    def hog() -> None:
        while not stop.is_set():
            sum(range(20_000))

    hogs = [threading.Thread(target=hog) for _ in range(4)]
    for thread in hogs:
        thread.start()
    results = {"ok": 0, "late": 0}
    try:
        for _ in range(300):
            try:
                within(0.003, lambda: None)
                results["ok"] += 1
            except TimeoutError:
                results["late"] += 1
    finally:
        stop.set()
        for thread in hogs:
            thread.join()
    assert sum(results.values()) == 300
    with pytest.raises(TimeoutError):
        within(0.1, busy)


def test_work_ends_with_the_client_who_wanted_it() -> None:
    ended = threading.Event()

    def work() -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(ended.set)
            busy()

    async def leave() -> None:
        task = asyncio.create_task(Work().run(work))
        await asyncio.sleep(0.2)
        assert not ended.is_set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    assert ended.wait(5)


def test_large_requests_are_prepared_one_after_the_other() -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def work(_: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1

    async def all_at_once(nbytes: int) -> int:
        most[0], shared = 0, Work()
        await asyncio.gather(*(shared.run(work, n, nbytes=nbytes) for n in range(8)))
        return most[0]

    assert asyncio.run(all_at_once(1 << 20)) == 1
    assert asyncio.run(all_at_once(100)) > 1


def test_responses_kept_are_bounded_by_their_bytes() -> None:
    responses = Responses(Service(Settings()))
    wanted = msgspec.convert({"input": "x"}, ResponsesRequest)
    answer: Callable[[int], Any] = lambda n: {"id": f"resp_{n}", "instructions": "x" * 1_000_000, "output": []}  # noqa: E731
    for n in range(200):
        responses._remember(wanted, answer(n), [{"role": "user", "content": "y" * 1000}])
    kept = sum(len(a) + len(b) for a, b, _ in responses._kept.values())
    assert kept == responses._kept_bytes <= 32 << 20
    assert "resp_199" in responses._kept and "resp_0" not in responses._kept


def test_a_response_that_goes_takes_its_items_along() -> None:
    responses = Responses(Service(Settings()))
    wanted = msgspec.convert({"input": "x"}, ResponsesRequest)
    for n in range(600):
        responses._remember(wanted, {"id": f"resp_{n}", "output": [{"id": f"msg_{n}"}]}, [])
    assert len(responses._kept) == len(responses._places) == 512
    assert responses._item("msg_599") == {"id": "msg_599"} and responses._item("msg_0") is None


def test_long_answers_are_told_as_short_ones(address: str, model: Model) -> None:
    """Six hundred tokens with their log probabilities are written beside the loop."""
    ids = [300 + n % 50 for n in range(600)]
    told = post(address, {"prompt": ids, "echo": True, "logprobs": 2, "max_tokens": 1}, "/v1/completions").json()
    shown = told["choices"][0]["logprobs"]
    expected = model.generate(ids, logprobs=2, prompt_logprobs=True, max_tokens=1)
    assert shown["token_logprobs"][1:600] == [t.logprob for t in expected.prompt_logprobs]
    assert len(shown["tokens"]) == 601 and shown["top_logprobs"][0] is None


@pytest.mark.parametrize(
    ("body", "taken"),
    [
        (b'{"a":"' + b",[{" * 400_000 + b'"}', True),  # signs within a text are text
        (b'{"a":"' + b'\\",[{' * 200_000 + b'"}', True),
        (b'{"a":"' + b'\\\\",[{"' * 5 + b'"}', True),
        (b'{"a":[' + b"1," * 262_143 + b"1]}", True),
        (b'{"a":[' + b"1," * 300_000 + b"1]}", False),
        (b'{"a":[' + b"[]," * 150_000 + b"1]}", False),
        (b'{"a":["\\\\",' + b"{}," * 150_000 + b"1]}", False),
        (b'{"a":[' + b'"x",' * 700_000 + b'"x"]}', False),
    ],
)
def test_values_of_a_body_are_counted_before_they_are_made(body: bytes, taken: bool) -> None:
    with contextlib.nullcontext() if taken else pytest.raises(RequestError, match="values"):
        check_values(body)


def test_the_bodies_of_all_requests_are_bounded_together(address: str) -> None:
    """Of many large ones that come at once some are told to come again; the server is well afterwards."""
    body = {"messages": [{"role": "user", "content": "a" * 7_900_000}]}
    told: list[int] = []
    threads = [threading.Thread(target=lambda: told.append(post(address, body).status_code)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(told) <= {400, 503} and 400 in told and len(told) == 16
    assert post(address, {"messages": CAPITAL}).status_code == 200


def test_of_too_many_sockets_the_silent_ones_go(address: str) -> None:
    where = address.replace("http", "ws") + "/v1/stream"
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(where)) for _ in range(130)]
        with pytest.raises(ConnectionClosed) as closed:
            sockets[0].recv(timeout=10)
        assert closed.value.rcvd and closed.value.rcvd.code == 1013
        sockets[-1].send(json.dumps({"messages": CAPITAL}))
        while (event := json.loads(sockets[-1].recv(timeout=30)))["type"] != "done":
            pass
        assert event["finish_reason"] == "stop"
