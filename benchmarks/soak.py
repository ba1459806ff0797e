"""A server under good and hostile requests at once: what goes wrong, and whether anything grows.

    python benchmarks/soak.py [MODEL] [--minutes 30] [--clients 64] [--cache 200M] [--crowd]

Starts a server of its own on 127.0.0.1 and talks to no other. Every client asks, one after the other, what a seeded
generator gives it: good requests whose answer is known, streams that are left, wrong types in every field, schemas and
grammars that explode, calls, labels, log probabilities, texts that are too long, half-sent and broken HTTP.

`--crowd`: clients who want answers only, as many at a time as the server makes. Every other client leaves in the middle
of each; what the others get must be, to the letter, what the server had answered when nobody else was there.

Printed each minute: requests and those a second, 5xx and other faults, the median and 99th percentile of good answers,
and the server's memory, descriptors and threads. The first third is for filling what the server keeps. Over the rest
a line is fitted to each of the three; the exit code is 1 if one rises by more than its share (`ALLOWED`), if there was
a 5xx, a wrong answer or a connection that broke, or no end within the grace.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

CAPITAL = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
WRONG: list[Any] = [None, True, -1, 10**30, 1.5, "x", "", [], [[]], ["x"], {}, {"x": {}}, {"type": []}, [{}]]
ALLOWED = {"memory": 0.05, "descriptors": 0.25, "threads": 0.25}
"""What each may rise by, of its mean: descriptors and threads come and go with the clients."""
SERVER_ERRORS = {str(status) for status in range(500, 600)}
SAMPLE_S, GRACE_S, REST_S = 5.0, 5, 35
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
FULL: dict[str, Any] = {
    "messages": CAPITAL, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "seed": 1, "max_tokens": 4, "stop": ["x"],
    "tools": [TOOL], "tool_choice": "auto", "logit_bias": {"5": 1}, "stream_options": {"include_usage": True},
    "documents": ["x"], "metadata": {"a": "b"}, "logprobs": True, "top_logprobs": 1,
}  # fmt: skip


CROWD: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": f"{question} Say it {times} times."}], "seed": times, **sampler}
    for question in ("What is the capital of France?", "Who are you?", "What do dogs do?")
    for times, sampler in enumerate((
        {"temperature": 0}, {"temperature": 1.2, "top_k": 20}, {"temperature": 2, "min_p": 0.05, "repeat_penalty": 1.2},
        {"temperature": 0.9, "top_p": 0.8, "presence_penalty": 0.5}, {"temperature": 1, "regex": "[a-z]+( [a-z]+){7}"}
    ))
]  # fmt: skip
"""What a crowd asks, of 60 tokens each."""


class Tally:
    """What came of the requests; for any threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.status: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.seconds: list[float] = []

    def note(self, status: object, fault: str = "", seconds: float | None = None) -> None:
        with self.lock:
            self.status[str(status)] += 1
            if fault:
                self.faults.append(fault)
            if seconds is not None:
                self.seconds.append(seconds)


class Client:
    """One client: its requests follow from its seed."""

    def __init__(self, address: str, seed: int, tally: Tally) -> None:
        self.address, self.tally, self.rng = address, tally, random.Random(seed)
        self.where = (urlsplit(address).hostname or "", urlsplit(address).port or 0)
        self.http = httpx.Client(base_url=address, timeout=120)

    def run(self, until: float) -> None:
        kinds = [self.good] * 6 + [self.typed] * 6 + [self.left, self.bound, self.huge, self.explosive, self.broken]
        kinds += [self.half, self.kept, self.small, self.long, self.probabilities, self.called, self.labels]
        while time.monotonic() < until:
            kind = self.rng.choice(kinds)
            try:
                kind()
            except (httpx.HTTPError, OSError) as error:
                fault = f"{kind.__name__}: {type(error).__name__}"
                self.tally.note(fault, fault)
        self.http.close()

    def post(self, body: Any, path: str = "/v1/chat/completions") -> httpx.Response:
        answer = self.http.post(path, content=json.dumps(body).encode(), headers={"content-type": "application/json"})
        fault = str(answer.status_code) in SERVER_ERRORS
        self.tally.note(
            answer.status_code, f"{answer.status_code} {str(body)[:200]} {answer.text[:200]}" if fault else ""
        )
        return answer

    def good(self) -> None:
        started = time.perf_counter()
        answer = self.post({"messages": CAPITAL, "temperature": 0})
        if answer.status_code == 200:
            text = answer.json()["choices"][0]["message"]["content"]
            self.tally.note("good", "" if text == PARIS else f"wrong: {text}", time.perf_counter() - started)

    def typed(self) -> None:
        body = json.loads(json.dumps(FULL))
        inner: Any = body
        while True:
            key = self.rng.choice(list(inner) if isinstance(inner, dict) else list(range(len(inner))))
            if isinstance(inner[key], dict | list) and inner[key] and self.rng.random() < 0.7:
                inner = inner[key]
                continue
            inner[key] = self.rng.choice(WRONG)
            break
        self.post(body, self.rng.choice(["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize"]))

    def left(self) -> None:
        body = json.dumps({"messages": CAPITAL, "stream": True, "max_tokens": 500, "temperature": 3}).encode()
        with socket.create_connection(self.where, timeout=60) as s:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            s.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            s.recv(self.rng.choice([1, 4096]))
        self.tally.note("left")

    def bound(self) -> None:
        schema = {"type": "object", "properties": {f"p{self.rng.randrange(50)}": {"type": "integer"}}}
        self.post({"messages": CAPITAL, "max_tokens": 30, "json_schema": schema | {"additionalProperties": False}})

    def huge(self) -> None:
        content = self.rng.choice(["a" * 2_000_000, "hello world " * 100_000, "<|im_end|>" * 50_000, " " * 3_000_000])
        self.post({"messages": [{"role": "user", "content": content}], "truncation": self.rng.choice(["auto", None])})

    def explosive(self) -> None:
        kind, levels = self.rng.choice(["anyOf", "allOf"]), self.rng.randrange(4, 30)
        doubled = {f"a{n}": {kind: [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
        schema = {"$defs": doubled | {f"a{levels}": {"const": "z"}}, "$ref": "#/$defs/a0"}
        soft = {"soft": 1} if self.rng.random() < 0.5 else {}
        form = {"type": "json_schema", "json_schema": {"schema": schema}, **soft}
        self.post({"messages": CAPITAL, "max_tokens": 5, "response_format": form})

    def broken(self) -> None:
        with socket.create_connection(self.where, timeout=60) as s:
            s.sendall(self.rng.choice([b"\x16\x03\x01 not http\r\n\r\n", b"GET /\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n"]))
            self.tally.note("broken", "" if b" 4" in s.recv(4096)[:16] else "broken HTTP was not refused")

    def half(self) -> None:
        s = socket.create_connection(self.where, timeout=60)
        s.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
        s.recv(4096)
        threading.Timer(self.rng.random() * 30, s.close).start()
        self.tally.note("half")

    def kept(self) -> None:
        first = self.post(
            {"input": "My name is Anna.", "max_output_tokens": 8, "metadata": {"a": "x" * 500}}, "/v1/responses"
        )
        if first.status_code == 200:
            self.post(
                {"input": "Hi", "previous_response_id": first.json()["id"], "max_output_tokens": 4}, "/v1/responses"
            )

    def small(self) -> None:
        for path in ("/health", "/metrics", "/v1/models", "/nothing"):
            answer = self.http.get(path)
            self.tally.note(answer.status_code, f"{path} {answer.status_code}" if answer.status_code >= 500 else "")

    def long(self) -> None:
        prompt = [self.rng.randrange(300, 4000) for _ in range(self.rng.randrange(20, 1500))]
        self.post({"prompt": prompt, "max_tokens": 4, "dry_multiplier": 0.5}, "/v1/completions")

    def probabilities(self) -> None:
        prompt = [self.rng.randrange(300, 4000) for _ in range(self.rng.randrange(20, 900))]
        self.post({"prompt": prompt, "max_tokens": 4, "echo": True, "logprobs": 20}, "/v1/completions")

    def called(self) -> None:
        parameters = {"type": "object", "properties": {f"p{self.rng.randrange(50)}": {"type": "string"}}}
        tool = {"type": "function", "function": {"name": "look_up", "parameters": parameters}}
        self.post({"messages": CAPITAL, "max_tokens": 30, "tools": [tool], "tool_choice": "required"})

    def labels(self) -> None:
        labels = [f"label {self.rng.randrange(10_000)} of {n}" for n in range(self.rng.randrange(2, 60))]
        form = {"type": "choice", "choices": labels}
        self.post({"messages": CAPITAL, "max_tokens": 8, "logprobs": True, "response_format": form})


class OneOfCrowd(Client):
    """A client who wants answers only; with an odd seed, one who leaves each of them. expected: a text for each of
    CROWD."""

    def __init__(self, address: str, seed: int, tally: Tally, expected: list[str]) -> None:
        super().__init__(address, seed, tally)
        self.expected, self.leaves = expected, seed % 2 == 1

    def run(self, until: float) -> None:
        while time.monotonic() < until:
            n = self.rng.randrange(len(CROWD))
            try:
                self.leave(n) if self.leaves else self.stay(n)
            except httpx.HTTPError as error:
                self.tally.note(type(error).__name__, f"{type(error).__name__} {error}")
        self.http.close()

    def ask(self, n: int) -> str | None:
        """The answer to CROWD[n]; None: there was no room in the queue."""
        answer = self.post(CROWD[n] | {"max_tokens": 60})
        if answer.status_code == 429:
            time.sleep(1)
            return None
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    def stay(self, n: int) -> None:
        started, text = time.perf_counter(), self.ask(n)
        if text is not None:
            fault = "" if text == self.expected[n] else f"{CROWD[n]}: {text!r} in company, {self.expected[n]!r} alone"
            self.tally.note("whole", fault, time.perf_counter() - started)

    def leave(self, n: int) -> None:
        body = CROWD[n] | {"max_tokens": 500, "stream": True}
        with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
            for _ in zip(range(self.rng.randrange(1, 30)), answer.iter_lines(), strict=False):
                pass
        self.tally.note("left")


@dataclass(frozen=True)
class Sample:
    """What a process takes at one moment. memory: resident MB."""

    minute: float
    memory: float
    descriptors: float
    threads: float

    @classmethod
    def of(cls, pid: int, minute: float) -> Sample:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        files = len(os.listdir(f"/proc/{pid}/fd"))
        return cls(minute, int(status["VmRSS"].split()[0]) / 1024, files, int(status["Threads"]))

    def __str__(self) -> str:
        return f"{self.memory:.0f} MB, {self.descriptors:.0f} descriptors, {self.threads:.0f} threads"


def rises(samples: list[Sample]) -> list[str]:
    """What rises over the last two thirds by more than is allowed; each fit is printed."""
    last = samples[len(samples) // 3 :]
    if len(last) < 3:
        return ["there are too few samples"]
    minutes, risen = [sample.minute for sample in last], []
    for name, share in ALLOWED.items():
        values = [getattr(sample, name) for sample in last]
        slope = statistics.linear_regression(minutes, values).slope
        rise, mean = slope * (minutes[-1] - minutes[0]), statistics.mean(values)
        print(f"{name}: {slope:+.3f} a minute, {rise:+.1f} in the last two thirds of a mean of {mean:.1f}")
        if rise > share * mean:
            risen.append(f"{name} rises by {rise / mean:.0%}, {share:.0%} are allowed")
    return risen


def watch(pid: int, tally: Tally, minutes: float) -> list[Sample]:
    """Samples until the end; a line each minute."""
    started, samples, last_minute, before = time.monotonic(), list[Sample](), 0, 0
    while (minute := (time.monotonic() - started) / 60) < minutes:
        time.sleep(SAMPLE_S)
        samples.append(Sample.of(pid, minute))
        if int(minute) == last_minute:
            continue
        with tally.lock:
            total, recent = sum(tally.status.values()), sorted(tally.seconds[-500:]) or [0.0]
            server_errors = sum(count for status, count in tally.status.items() if status in SERVER_ERRORS)
        spread = f"{1e3 * statistics.median(recent):.0f} / {1e3 * recent[int(0.99 * (len(recent) - 1))]:.0f} ms"
        print(f"{minute:5.1f} min: {total} requests, {(total - before) / (60 * (minute - last_minute)):.1f} a second, "
              f"{server_errors} of 5xx, {len(tally.faults)} faults, good answers {spread}; {samples[-1]}",
              flush=True)  # fmt: skip
        last_minute, before = int(minute), total
    return samples


def make_clients(address: str, count: int, tally: Tally, crowd: bool) -> list[Client]:
    """Of a crowd, the first asks everything once before there are others."""
    if not crowd:
        return [Client(address, n, tally) for n in range(count)]
    first = OneOfCrowd(address, 0, tally, [])
    expected = [first.ask(n) or "" for n in range(len(CROWD))]
    first.http.close()
    return [OneOfCrowd(address, n, tally, expected) for n in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--cache", default="200M", help="what the server may keep of earlier prompts")
    parser.add_argument("--crowd", action="store_true", help="answers only; half of the clients leave")
    args = parser.parse_args()
    command = [sys.executable, "-m", "edge_lfm.cli.main", "serve", *([args.model] if args.model else []), "--json"]
    command += ["--port", "0", "--host", "127.0.0.1", "--cache", args.cache, "--grace", str(GRACE_S)]
    tally = Tally()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        address = json.loads(server.stdout.readline())["address"]
        made = make_clients(address, args.clients, tally, args.crowd)
        until = time.monotonic() + 60 * args.minutes
        clients = [threading.Thread(target=client.run, args=(until,)) for client in made]
        for thread in clients:
            thread.start()
        samples = watch(server.pid, tally, args.minutes)
        for thread in clients:
            thread.join()
        time.sleep(REST_S)
        print(f"at rest: {Sample.of(server.pid, args.minutes)}")
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(GRACE_S + 10)
        ended = server.returncode
        server.kill()
    print("by outcome:", dict(tally.status.most_common()))
    wrong = rises(samples) + tally.faults[:20] + ([] if ended == 0 else [f"the server ended with {ended}"])
    print(*wrong, "FAULTS" if wrong else "flat, and no fault", sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
