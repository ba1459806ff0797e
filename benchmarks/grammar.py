"""What a grammar costs per token, with a model's own tokenizer: python benchmarks/grammar.py [MODEL] [--reference TPS]

Each grammar follows a text that it accepts, token by token: compiling, computing the mask, applying it in the sampler,
noting the token. `share` is of a token at --reference tokens per second (default 20).

With --schemas FOLDER [--sample N] [--seed N] instead: how many of its schemas are refused, by keyword, and whether any
answer breaks its schema. The files are MaskBench's (guidance-ai/jsonschemabench, maskbench/data): {"schema", "tests":
[{"data", "valid"}]}. Instances are fed to the grammars, and random answers are drawn and judged by jsonschema.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter
from pathlib import Path

import jsonschema
import numpy as np

from edge_lfm.demo import packed_demo
from edge_lfm.engine.grammar import Grammar, GrammarCompiler, GrammarConstraint, choice_grammar, json_grammar
from edge_lfm.engine.sampling import Sampler, SamplingOptions
from edge_lfm.errors import GrammarError
from edge_lfm.text.dialects import PYTHONIC
from edge_lfm.text.documents import citation_grammar, read_documents
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_binding import bind_tool
from edge_lfm.text.tool_calls import calls_grammar
from edge_lfm.text.tools import read_tools

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "email": {"type": "string", "pattern": "^[a-z.]+@[a-z.]+$"},
        "tags": {"type": "array", "items": {"enum": ["new", "old", "vip"]}},
        "address": {"type": "object", "properties": {"city": {"type": "string"}, "zip": {"type": "string"}}},
    },
    "required": ["name", "email"],
}
FILLED = {
    "name": "Anna Müller", "email": "anna.mueller@example.org", "tags": ["new", "vip"],
    "address": {"city": "Paris", "zip": "75001"},
}  # fmt: skip
TOOL = {"name": "create_person", "parameters": PERSON}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--reference", type=float, default=20.0)
    parser.add_argument("--schemas", type=Path, metavar="FOLDER")
    parser.add_argument("--sample", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = args.model or Path(packed_demo())
    tokenizer = Tokenizer(folder)
    started = time.perf_counter()
    compiler = GrammarCompiler(tokenizer.as_json, tokenizer.size, tokenizer.eos_ids)
    if args.schemas is not None:
        files = sorted(args.schemas.glob("*.json"))
        judge(compiler, tokenizer, random.Random(args.seed).sample(files, min(args.sample, len(files))))
        return
    compiler.compile(choice_grammar(["a"]))
    print(f"{tokenizer.size} entries; tables of the tokenizer, once: {time.perf_counter() - started:.2f} s\n")
    print(
        "| grammar | compile | mask, median | mask, 99 % | mask and sampler, mean | share |\n|---|---|---|---|---|---|"
    )
    end = tokenizer.special_id("<|tool_call_end|>") or 0
    documents = read_documents([{"id": f"doc{n}", "text": "x"} for n in range(10)])
    text = json.dumps(FILLED, ensure_ascii=False)
    call = "[create_person(" + ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in FILLED.items()) + ")]"
    prose = "The museum opened in 1876 [doc3] and has seventy rooms, most of them open all year [doc7]. " * 3
    tool = bind_tool(read_tools([TOOL])[0])
    for name, grammar, sample, last in (
        ("JSON schema", json_grammar(PERSON), text, []),
        ("any JSON object", json_grammar({"type": "object"}), text, []),
        (
            "tool call",
            Grammar("lark", calls_grammar(PYTHONIC, [tool], tokenizer)),
            call,
            [end],
        ),
        ("citations", Grammar("lark", citation_grammar(documents)), prose, []),
        ("regex", Grammar("regex", r"([^\n.]+\. ?)+"), prose, []),
    ):
        row(name, compiler, grammar, [*tokenizer.encode(sample), *last], tokenizer.size, args.reference)


def judge(compiler: GrammarCompiler, tokenizer: Tokenizer, files: list[Path]) -> None:
    """Print what is refused of these schemas, and every answer that breaks its schema."""
    refused: Counter[str] = Counter()
    answers = wrong = taken = valid = 0
    stop, rng = tokenizer.eos_ids[0], random.Random(0)
    for file in files:
        raw = json.loads(file.read_text(encoding="utf-8"))
        schema = raw["schema"]
        try:
            grammar = json_grammar(schema)
            compiler.compile(grammar)
        except GrammarError as error:
            refused[error.message.partition(": ")[2][:60]] += 1
            continue
        for test in raw["tests"]:
            accepted = follows(
                compiler.start(grammar), tokenizer.encode(json.dumps(test["data"], ensure_ascii=False)), stop
            )
            valid, taken = valid + test["valid"], taken + (test["valid"] and accepted)
            if accepted and not test["valid"]:
                print(
                    f"{file.name}: takes an instance that its test calls invalid: {str(test.get('description'))[:60]}"
                )
        answer = drawn(compiler.start(grammar), tokenizer, stop, rng)
        if answer is None:
            continue
        checker = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        try:
            fits = checker(schema).is_valid(json.loads(answer))
        except OverflowError:  # jsonschema divides by multipleOf as a float
            continue
        answers += 1
        if not fits:
            wrong += 1
            print(f"{file.name}: {answer:.200} breaks its schema")
    total = sum(refused.values())
    print(
        f"{len(files)} schemas, {total} refused ({total / len(files):.1%}); {answers} random answers, {wrong} invalid;"
    )
    print(f"{taken} of {valid} valid instances taken as they stand (properties come in the schema's order only)")
    for why, count in refused.most_common(12):
        print(f"  {count:4} {why}")


def follows(constraint: GrammarConstraint, ids: list[int], stop: int) -> bool:
    """Whether a grammar takes these tokens, and may end then."""
    for token in ids:
        if not constraint.allowed()[token]:
            return False
        constraint.accept(token)
    return bool(constraint.allowed()[stop])


def drawn(constraint: GrammarConstraint, tokenizer: Tokenizer, stop: int, rng: random.Random) -> str | None:
    """A random answer, what ends something drawn more often; None if it does not come to its end."""
    ids: list[int] = []
    for _ in range(200):
        allowed = np.flatnonzero(constraint.allowed())
        if stop in allowed and (len(allowed) == 1 or rng.random() < 0.3):
            return tokenizer.decode(ids)
        ending = (
            [i for i in allowed if tokenizer.bytes_of(int(i))[-1:] in (b'"', b"]", b"}")] if len(allowed) < 9000 else []
        )
        ids.append(int(rng.choice(ending if ending and rng.random() < 0.5 else allowed[allowed != stop])))
        constraint.accept(ids[-1])
    return None


def row(
    name: str, compiler: GrammarCompiler, grammar: Grammar, ids: list[int], vocab: int, reference_tps: float
) -> None:
    started = time.perf_counter()
    compiler.compile(grammar)
    compiled = time.perf_counter() - started
    masks, whole = [], []
    logits = np.random.default_rng(0).standard_normal(vocab).astype(np.float32)
    for _ in range(5):
        constraint = compiler.start(grammar)
        for token in ids:
            started = time.perf_counter()
            constraint.allowed()
            masks.append(time.perf_counter() - started)
            constraint.accept(token)
        bound, free = compiler.start(grammar), Sampler(SamplingOptions(), vocab)
        sampler = Sampler(SamplingOptions(), vocab, constraint=bound)
        for token in ids:
            leading = logits.copy()
            leading[token] = 100  # the sampler takes the token of the text
            started = time.perf_counter()
            free.next(leading)
            between = time.perf_counter()
            sampler.next(leading)
            whole.append(time.perf_counter() - between - (between - started))
    masks.sort()
    mean = statistics.mean(whole)
    tail = masks[len(masks) * 99 // 100]
    cells = [f"{1e3 * compiled:.1f} ms", *(f"{1e6 * t:.0f} us" for t in (masks[len(masks) // 2], tail, mean))]
    print(f"| {name} | {' | '.join(cells)} | {mean * reference_tps:.1%} |")


if __name__ == "__main__":
    main()
