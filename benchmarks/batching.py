"""How much faster 2, 4, 8 and 16 answers are together than one: one interleaved table.

    python benchmarks/batching.py FOLDER [--threads 2] [--rounds 5] [--prompt 64] [--tokens 24] [--ram 6G]

FOLDER is a packed model, as `edge-lfm synth lfm2-8b-a1b` makes one of random weights, which route almost uniformly: the
worst case for sharing experts. Tokens per second of all answers together, as multiples of one answer's; medians over
the rounds, each of which has every count once:

limit: by the bytes of trunk and experts that a step reads, if rows choose experts uniformly
one sequence: a step of so many rows of one sequence, as drafts are
steps: a step of one row of so many sequences, without sampling
answers: through the API, greedy, behind their first tokens

A second table: how long an answer waits for its next token while a prompt of 2,048 tokens is read beside it, with
several bounds (`token_wait`), and how fast the prompt is read.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_lfm import Model
from edge_lfm.devices.estimate import Demand
from edge_lfm.engine.backend import Backend
from edge_lfm.engine.feeds import Feed
from edge_lfm.model.demand import demand_of
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State

COUNTS = (1, 2, 4, 8, 16)
WAITS, LONG = (0.1, 0.25, 0.5, 1.0), 2048
STEPS = 8
"""Of each measurement of bare steps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=64, help="tokens before each answer")
    parser.add_argument("--tokens", type=int, default=24, help="of each answer")
    parser.add_argument("--ram", help="pages the experts if the model does not fit")
    args = parser.parse_args()
    load = {"ram": args.ram, "threads": args.threads, "context": 1024, "cache": 1, "parallel": COUNTS[-1]}
    with Model.load(args.folder, **load) as model:
        rates: dict[str, dict[int, list[float]]] = {}
        for _ in range(args.rounds):
            measure(model, args.prompt, args.tokens, rates)
        print_table(model, rates)
    print("\n| token_wait s | median gap alone ms | longest gap beside ms | prompt tok/s |\n|---|---|---|---|")
    for bound in WAITS:
        with Model.load(args.folder, token_wait=bound, **(load | {"context": 4096})) as model:
            alone, beside, rate = gaps(model)
            print(f"| {bound} | {1e3 * statistics.median(alone):.0f} | {1e3 * max(beside):.0f} | {rate:.0f} |")


def measure(model: Model, prompt: int, tokens: int, rates: dict[str, dict[int, list[float]]]) -> None:
    """One round of all counts, noted as tokens per second."""
    rng = np.random.default_rng(0)
    states = [State(model.shape, 1024) for _ in COUNTS[-1] * (0,)]
    for state in states:
        model.backend.read(rng.integers(0, model.vocab, prompt).tolist(), state)
    for count in COUNTS:
        rates_of_count = {
            "one sequence": one_sequence(model.backend, states[0], count, rng),
            "steps": steps(model.backend, states[:count], rng),
            "answers": answers(model, count, prompt, tokens, rng),
        }
        for name, rate in rates_of_count.items():
            rates.setdefault(name, {}).setdefault(count, []).append(rate)


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


def answers(model: Model, count: int, prompt: int, tokens: int, rng: np.random.Generator) -> float:
    """All are queued before the engine may begin, so that equal prompts are read by the same steps."""
    endless = dict.fromkeys(model.stop_ids, -100.0)
    queued = threading.Event()
    holding = threading.Thread(target=lambda: model.scheduler.call(queued.wait))
    holding.start()
    streams = [
        model.stream(ids.tolist(), max_tokens=tokens, temperature=0.0, logit_bias=endless)
        for ids in rng.integers(0, model.vocab, (count, prompt))
    ]
    queued.set()
    holding.join()
    return sum(stream.result().timings.decode_tps for stream in streams)


def gaps(model: Model) -> tuple[list[float], list[float], float]:
    """Seconds between an answer's tokens without company, and beside a long prompt; the prompt's tokens a second."""
    rng, options = np.random.default_rng(1), {"temperature": 0.0, "logit_bias": dict.fromkeys(model.stop_ids, -100.0)}
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


def print_table(model: Model, rates: dict[str, dict[int, list[float]]]) -> None:
    assert isinstance(model.files, PackedModel)
    demand = demand_of(model.shape, list(model.files.tensors.values()))
    print("| answers | " + " | ".join(map(str, COUNTS)) + " |\n" + "|---" * (len(COUNTS) + 1) + "|")
    print("| limit | " + " | ".join(f"{limit(demand, count):.2f}" for count in COUNTS) + " |")
    for name, rates_of_count in rates.items():
        medians = [statistics.median(rates_of_count[count]) for count in COUNTS]
        multiples = [f"{rate / medians[0]:.2f}" for rate in medians]
        print(f"| {name} | {' | '.join(multiples)} |")
        print(f"| {name}, tok/s | {' | '.join(f'{rate:.1f}' for rate in medians)} |")


def limit(demand: Demand, count: int) -> float:
    """Bytes of so many steps of one row, over those of one step of so many rows."""
    trunk = demand.bytes_per_token - demand.moe_layers * demand.top_k * demand.expert_bytes
    union = demand.experts * (1 - (1 - demand.top_k / demand.experts) ** count) if demand.experts else 0.0
    return count * demand.bytes_per_token / (trunk + demand.moe_layers * union * demand.expert_bytes)


if __name__ == "__main__":
    main()
