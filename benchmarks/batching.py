"""How much faster 2, 4, 8 and 16 answers are together than one: one interleaved table.

    python benchmarks/batching.py FOLDER [--threads 2] [--rounds 5] [--counts 1,2,4,8,16] [--ram 6G] [--waits 0.1,0.5]
    python benchmarks/batching.py FOLDER --routing TRACE.npz
    python benchmarks/batching.py FOLDER --peer WORK --shape lfm2-8b-a1b

FOLDER is a packed model, as `edge-lfm synth lfm2-8b-a1b` makes one of random weights, which route almost uniformly: the
worst case for sharing experts. Tokens per second of all answers together, as multiples of one answer's; medians over
the rounds, each of which has every count once:

limit: by the bytes of trunk and experts that a step reads, with the union of experts that the steps had; of a paged
    model by the bytes that answers read from the disk
one sequence: a step of so many rows of one sequence, as drafts are
steps: a step of one row of so many sequences, without sampling
answers: through the API, greedy, from their first tokens to their last, by the clock

`--routing` has every token choose the experts that a recorded trace says (`recorded.py`), each sequence by other,
unrelated stretches of it. Steps then stop after each router, with one answer too.

`--peer` gives llama.cpp's `llama-batched-bench` the same numbers of answers in the same rounds, built under WORK.

`--waits`: how long an answer waits for its next token while a prompt of 2,048 tokens is read beside it, with these
bounds (`token_wait`), and how fast the prompt is read.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray
from recorded import RecordedRouting, Trace

from edge_lfm import Model
from edge_lfm.devices.estimate import Demand
from edge_lfm.engine.backend import Backend
from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.runner import Runner
from edge_lfm.model.demand import demand_of
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State

LONG = 2048
STEPS = 8
"""Of each measurement of bare steps."""
STREAM_TOKENS = 512
Rates = dict[str, dict[int, list[float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--counts", type=_numbers(int), default=[1, 2, 4, 8, 16], help="answers together")
    parser.add_argument("--prompt", type=int, default=64, help="tokens before each answer")
    parser.add_argument("--tokens", type=int, default=24, help="of each answer")
    parser.add_argument("--ram", help="pages the experts if the model does not fit")
    parser.add_argument("--routing", type=Path, help="a recorded trace to route by")
    parser.add_argument("--peer", type=Path, help="folder for llama.cpp and its model")
    parser.add_argument("--shape", default="lfm2-8b-a1b", help="of the peer's model")
    parser.add_argument("--waits", type=_numbers(float), default=[], help="bounds of a token's wait, seconds")
    args = parser.parse_args()
    load = {"ram": args.ram, "threads": args.threads, "context": 1024, "cache": 1, "parallel": max(args.counts)}
    rates: Rates = {}
    with Model.load(args.folder, **load) as model:
        if args.routing is not None:
            assert isinstance(model.backend, Runner)
            streams = Trace.of(args.routing, model.shape).streams(2 * max(args.counts) + 1, STREAM_TOKENS)
            RecordedRouting(model.backend, streams)
        for _ in range(args.rounds):
            measure(model, args, rates)
            if args.peer is not None:
                measure_peer(args, model.threads, rates)
        print_table(model, args.counts, rates)
    if args.waits:
        print("\n| token_wait s | median gap alone ms | longest gap beside ms | prompt tok/s |\n|---|---|---|---|")
    for bound in args.waits:
        with Model.load(args.folder, token_wait=bound, **(load | {"context": 4096})) as model:
            alone, beside, rate = gaps(model)
            print(f"| {bound} | {1e3 * statistics.median(alone):.0f} | {1e3 * max(beside):.0f} | {rate:.0f} |")


def _numbers(kind: type) -> Any:
    return lambda text: [kind(part) for part in text.split(",")]


def measure(model: Model, args: argparse.Namespace, rates: Rates) -> None:
    """One round of all counts, noted as tokens per second."""
    rng = np.random.default_rng(0)
    states = [State(model.shape, 1024) for _ in range(max(args.counts))]
    for state in states:
        model.backend.read(rng.integers(0, model.vocab, args.prompt).tolist(), state)
    for count in args.counts:
        note(rates, "one sequence", count, one_sequence(model.backend, states[0], count, rng))
        before = model.backend.experts
        note(rates, "steps", count, steps(model.backend, states[:count], rng))
        note(rates, "union share", count, (model.backend.experts - before).union_share)
        rate, read = answers(model, count, args.prompt, args.tokens, rng)
        note(rates, "answers", count, rate)
        note(rates, "read", count, read)


def note(rates: Rates, name: str, count: int, value: float) -> None:
    rates.setdefault(name, {}).setdefault(count, []).append(value)


def one_sequence(backend: Backend, state: State, count: int, rng: np.random.Generator) -> float:
    started = time.perf_counter()
    for _ in range(STEPS):
        before = state.checkpoint()
        backend.run([Feed(state, rng.integers(0, backend.shape.vocab, count), "all")])
        state.go_back(before)
    return STEPS * count / (time.perf_counter() - started)


def steps(backend: Backend, states: Sequence[State], rng: np.random.Generator) -> float:
    drawn: NDArray[np.int64] = rng.integers(0, backend.shape.vocab, (STEPS, len(states), 1))
    started = time.perf_counter()
    for ids in drawn:
        backend.run([Feed(state, row) for state, row in zip(states, ids, strict=True)])
    return STEPS * len(states) / (time.perf_counter() - started)


def answers(model: Model, count: int, prompt: int, tokens: int, rng: np.random.Generator) -> tuple[float, float]:
    """Tokens a second, and MB that a token read from the disk.

    All are queued before the engine may begin, so that equal prompts are read by the same steps.
    """
    queued = threading.Event()
    holding = threading.Thread(target=lambda: model.scheduler.call(queued.wait))
    holding.start()
    jobs, times = [], []
    for ids in rng.integers(0, model.vocab, (count, prompt)):
        request = model.prepare(ids.tolist(), max_tokens=tokens, temperature=0.0, ignore_eos=True)
        jobs.append(model.submit(request))
        times.append(told := [])
        jobs[-1].listener = lambda told=told: told.append((time.perf_counter(), read_bytes(model)))  # engine's thread
    queued.set()
    holding.join()
    for job in jobs:
        for _ in job:
            pass
    # The last times of each are those of its tokens, and of its end.
    last, first = max(told[-2] for told in times), max(told[-1 - tokens] for told in times)
    given = count * (tokens - 1)
    return given / (last[0] - first[0]), (last[1] - first[1]) / given / 1e6


def read_bytes(model: Model) -> int:
    """From the disk so far; 0: the whole model is in memory."""
    return model.paging.bytes_read if model.paging is not None else 0


def measure_peer(args: argparse.Namespace, threads: int, rates: Rates) -> None:
    """One round of llama.cpp's, all counts in one process."""
    bench = llama_cpp.build_peer(args.peer, program="llama-batched-bench")
    model = llama_cpp.prepare_peer(args.peer, args.shape, "Q4_0")
    context = max(args.counts) * -(-(args.prompt + args.tokens) // 256) * 256  # of each sequence whole 256s
    command = [str(bench), "-m", str(model), "-t", str(threads), "-npp", str(args.prompt), "-ntg", str(args.tokens),
               "-npl", ",".join(map(str, args.counts)), "-c", str(context), "--output-format", "jsonl"]  # fmt: skip
    environment = os.environ | {"LD_LIBRARY_PATH": str(bench.parent)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            note(rates, "llama.cpp", row["pl"], row["speed_tg"])


def gaps(model: Model) -> tuple[list[float], list[float], float]:
    """Seconds between an answer's tokens without company, and beside a long prompt; the prompt's tokens a second."""
    rng, options = np.random.default_rng(1), {"temperature": 0.0, "ignore_eos": True}
    answer = model.submit(model.prepare(rng.integers(0, model.vocab, 16).tolist(), max_tokens=4000, **options))
    times: list[float] = []
    answer.listener = lambda: times.append(time.perf_counter())  # from the engine's thread
    for _ in range(32):
        next(answer)
    started = time.perf_counter()
    prompt = model.stream(rng.integers(0, model.vocab, LONG).tolist(), max_tokens=1, **options)
    reading = threading.Thread(target=prompt.result)
    reading.start()
    while reading.is_alive():
        next(answer)
    seconds = time.perf_counter() - started
    answer.cancel()
    between = list(itertools.pairwise(times[8:]))
    alone = [after - before for before, after in between if after < started]
    beside = [after - before for before, after in between if started <= after < started + seconds]
    return alone, beside, LONG / seconds


def print_table(model: Model, counts: Sequence[int], rates: Rates) -> None:
    assert isinstance(model.files, PackedModel)
    demand = demand_of(model.shape, list(model.files.tensors.values()))
    print("| answers | " + " | ".join(map(str, counts)) + " |\n" + "|---" * (len(counts) + 1) + "|")
    shares = {count: statistics.median(found) for count, found in rates.pop("union share").items()}
    print("| union share | " + " | ".join(f"{shares[count]:.2f}" for count in counts) + " |")
    read = {count: statistics.median(found) for count, found in rates.pop("read").items()}
    limits = [limit(demand, count, shares[count]) for count in counts]
    if model.paging is not None:
        print("| MB read a token | " + " | ".join(f"{read[count]:.0f}" for count in counts) + " |")
        limits = [read[counts[0]] / max(1e-9, read[count]) for count in counts]
    print("| limit | " + " | ".join(f"{value:.2f}" for value in limits) + " |")
    for name, found in rates.items():
        medians = [statistics.median(found[count]) for count in counts]
        alone = found[counts[0]]
        multiples = [statistics.median(b / a for a, b in zip(alone, found[n], strict=True)) for n in counts]
        print(f"| {name} | {' | '.join(f'{multiple:.2f}' for multiple in multiples)} |")
        print(f"| {name}, tok/s | {' | '.join(f'{rate:.1f}' for rate in medians)} |")
    if "llama.cpp" in rates:
        pairs = [zip(rates["answers"][n], rates["llama.cpp"][n], strict=True) for n in counts]
        ratios = [statistics.median(ours / theirs for ours, theirs in pair) for pair in pairs]
        print(f"| answers, ours / llama.cpp's | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")


def limit(demand: Demand, count: int, share: float) -> float:
    """Bytes of so many steps of one row, over those of one step of so many rows that read this share of their
    experts."""
    experts = demand.moe_layers * demand.top_k * demand.expert_bytes
    trunk = demand.bytes_per_token - experts
    return count * demand.bytes_per_token / (trunk + count * share * experts)


if __name__ == "__main__":
    main()
