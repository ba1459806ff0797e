"""What the layers above the engine cost, and what reuse saves: one table.

    python benchmarks/serving.py [MODEL] [--turns 6] [--words 400]

MODEL is a packed model with a tokenizer (default: the demo model). Measured, in one process and interleaved where two
things are compared: decode through the bare engine, the API and HTTP; when the events of a stream arrive; the time to
the first token of a conversation's turns with and without reuse; saving and restoring a session; a client that leaves;
sampling at 65,536 entries.
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np

from edge_lfm import Model, Text
from edge_lfm.engine.sampling import Sampler, SamplingOptions
from edge_lfm.model.state import State

TOKENS, ROUNDS = 128, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--words", type=int, default=400, help="of each question")
    args = parser.parse_args()
    load = [args.model] if args.model else []
    with Model.load(*load) as model, Model.load(*load, cache=1) as forgetful, Served(load) as address:
        row("what", "figure")
        layers(model, address)
        arrivals(model, address)
        turns(model, forgetful, args.turns, args.words)
        sessions(model, args.words)
        leaving(model, address)
    sampling()


def row(what: str, figure: str) -> None:
    print(f"| {what} | {figure} |", flush=True)
    if what == "what":
        print("|---|---|")


class Served:
    """A server for the model in a process of its own."""

    def __init__(self, load: list[str]) -> None:
        command = [sys.executable, "-m", "edge_lfm.cli.main", "serve", *load, "--port", "0", "--json"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def __enter__(self) -> str:
        assert self._process.stdout
        return str(json.loads(self._process.stdout.readline())["address"])

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def endless(model: Model) -> dict[str, float]:
    return dict.fromkeys(map(str, model.stop_ids), -100.0)


def layers(model: Model, address: str) -> None:
    """Decode speeds: median of the rounds, the three ways one after the other in each."""
    ids = model.encode_prompt("Tell me a story.")
    rates: dict[str, list[float]] = {"engine": [], "API": [], "HTTP": []}
    for _ in range(ROUNDS):
        state = State(model.shape, model.context, model.kv_dtype)
        logits = model.engine.runner.read(ids, state)
        started = time.perf_counter()
        for _ in range(TOKENS):
            logits = model.engine.runner.read([int(logits.argmax())], state)
        rates["engine"].append(TOKENS / (time.perf_counter() - started))
        bias = {int(i): value for i, value in endless(model).items()}
        times = [
            time.perf_counter()
            for event in model.stream(ids, max_tokens=TOKENS, logit_bias=bias, temperature=0.0)
            if isinstance(event, Text)
        ]
        rates["API"].append(TOKENS / (times[-1] - times[0]) * (1 - 1 / TOKENS))
        body = {"prompt": ids, "max_tokens": TOKENS, "stream": True, "logit_bias": endless(model), "temperature": 0}
        with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=None) as response:
            times = [time.perf_counter() for line in response.iter_lines() if line.startswith("data: {")]
        rates["HTTP"].append(TOKENS / (times[-1] - times[0]))
    for name, speeds in rates.items():
        row(f"decode through the {name}", f"{statistics.median(speeds):.1f} tok/s")


def arrivals(model: Model, address: str) -> None:
    """When a client sees a stream's events, and a small answer on a connection that it keeps."""
    body = {"prompt": [300], "max_tokens": TOKENS, "stream": True, "logit_bias": endless(model), "temperature": 0}
    firsts: list[float] = []
    gaps: list[float] = []
    small: list[float] = []
    with httpx.Client(base_url=address, timeout=None) as client:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            with client.stream("POST", "/v1/completions", json=body) as response:
                times = [time.perf_counter() for line in response.iter_lines() if line.startswith("data: {")]
            firsts.append(1e3 * (times[0] - started))
            gaps += [1e3 * (after - before) for before, after in itertools.pairwise(times)]
        for _ in range(100):
            started = time.perf_counter()
            client.get("/health")
            small.append(1e3 * (time.perf_counter() - started))
    gaps.sort()
    row("a stream: to its first event", f"{statistics.median(firsts):.1f} ms")
    figure = f"{statistics.median(gaps):.2f} ms in the median, {gaps[int(0.99 * len(gaps))]:.2f} at 99 %"
    row("a stream: between two events", figure)
    row("/health on a kept connection", f"{statistics.median(small):.2f} ms")


def turns(model: Model, forgetful: Model, count: int, words: int) -> None:
    """Seconds to the first token of each turn, with and without what the turns before have left."""
    session, rng = model.session(), np.random.default_rng(0)
    for n in range(count):
        session.messages.append({"role": "user", "content": " ".join(map(str, rng.integers(0, 1000, words)))})
        with_reuse = model.generate(session.messages, max_tokens=8)
        without = forgetful.generate(session.messages, max_tokens=8)
        assert with_reuse.token_ids == without.token_ids
        t = with_reuse.timings
        figure = f"{t.prefill_s:.3f} s with reuse ({t.cached_tokens} known), {without.timings.prefill_s:.3f} s without"
        row(f"turn {n + 1}, {t.prompt_tokens} prompt tokens: to the first token", figure)
        session.messages.append({"role": "assistant", "content": with_reuse.text})


def sessions(model: Model, words: int) -> None:
    session = model.session()
    session.send(" ".join(map(str, range(words))), max_tokens=8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "talk.session"
        started = time.perf_counter()
        session.save(path)
        saved = time.perf_counter()
        restored = model.restore(path)
        row("saving a session", f"{1e3 * (saved - started):.0f} ms, {path.stat().st_size / 1e6:.2f} MB")
        row("restoring it", f"{1e3 * (time.perf_counter() - saved):.0f} ms")
        answer = restored.send("And now?", max_tokens=2)
        row("its next turn", f"{answer.timings.prompt_tokens - answer.timings.cached_tokens} tokens computed")


def leaving(model: Model, address: str) -> None:
    """From a client's leaving to the engine's being free, in the middle of a decode and of a prefill."""
    count = min(model.context - 64, 4000)
    prompts = np.random.default_rng(1).integers(300, model.vocab, (20, count)).tolist()
    bodies = {
        "decode": [{"prompt": [300], "max_tokens": model.context, "logit_bias": endless(model)}] * 20,
        "prefill": [{"prompt": prompt, "max_tokens": 1} for prompt in prompts],
    }
    for phase, requests in bodies.items():
        waits = []
        for body in requests:
            with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port)) as client:
                text = json.dumps(body)
                head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                client.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
                while not active(address):
                    pass
                started = time.perf_counter()
            while active(address):
                pass
            waits.append(1e3 * (time.perf_counter() - started))
        waits.sort()
        figure = f"{waits[len(waits) // 2]:.0f} ms in the median, {waits[-1]:.0f} at most, of {len(waits)}"
        row(f"a client that leaves during {phase}: until the engine is free", figure)


def active(address: str) -> bool:
    text = httpx.get(f"{address}/metrics").text
    return any(line.startswith("edge_lfm_active_requests") and not line.endswith(" 0.0") for line in text.splitlines())


def sampling() -> None:
    logits = (np.random.default_rng(0).standard_normal(65536) * 3).astype(np.float32)
    cards = {
        "greedy": {},
        "the 24B's card (temperature 0.1, top-k 50, repetition penalty 1.05)": {
            "temperature": 0.1, "top_k": 50, "repeat_penalty": 1.05,
        },
        "the 8B's card (temperature 0.3, min-p 0.15, repetition penalty 1.05)": {
            "temperature": 0.3, "min_p": 0.15, "repeat_penalty": 1.05,
        },
        "temperature 1, top-p 0.95": {"temperature": 1.0, "top_p": 0.95},
    }  # fmt: skip
    for name, options in cards.items():
        sampler = Sampler(SamplingOptions(**options, seed=1), 64400, list(range(4000)))
        started = time.perf_counter()
        for _ in range(200):
            sampler.next(logits)
        row(f"sampling at 65,536 entries: {name}", f"{1e3 * (time.perf_counter() - started) / 200:.2f} ms a token")


if __name__ == "__main__":
    main()
