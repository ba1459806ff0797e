"""Answers under a grammar: masks against brute force, hundreds of schemas against jsonschema, and what is refused."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import random
import re
import signal
import subprocess
import tarfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from edge_lfm import Model
from edge_lfm.engine.apart import _line, run_apart
from edge_lfm.engine.grammar import Grammar, GrammarCompiler, grammar_of, json_grammar
from edge_lfm.errors import BusyError, GrammarError, UsageError
from edge_lfm.text.deadline import within

NOTHING: dict[str, Any] = {"schema": None, "regex": None, "lark": None, "choices": None}
SMALL: list[tuple[dict[str, Any], str]] = [
    ({"regex": "(ab|ba)?c{1,2}"}, "abc"),
    ({"regex": "[01]{2}-?[01]"}, "01-"),
    ({"regex": "a?b?c?"}, "abc"),
    ({"regex": "(e|he|hel)(lo|l)?"}, "helo"),
    ({"choices": ["yes", "no", "not yet", "yesterday"]}, ""),
]


def language(options: dict[str, Any], alphabet: str) -> set[bytes]:
    """All texts that match, by trying every text of at most five characters."""
    if "choices" in options:
        return {choice.encode() for choice in options["choices"]}
    texts = ("".join(t) for n in range(6) for t in itertools.product(alphabet, repeat=n))
    return {text.encode() for text in texts if re.fullmatch(options["regex"], text)}


@pytest.mark.parametrize(("options", "alphabet"), SMALL)
def test_masks_agree_with_brute_force(model: Model, options: dict[str, Any], alphabet: str) -> None:
    """Along random walks, every token of the vocabulary is allowed exactly if some match continues with it.

    Where the next character is the same in all matches, llguidance allows the canonical token only.
    """
    compiler, rng, grammar = model.engine.grammars, random.Random(1), grammar_of(**{**NOTHING, **options})
    assert compiler is not None and grammar is not None
    compiler.compile(grammar)
    whole = language(options, alphabet)
    begun = {text[:n] for text in whole for n in range(len(text) + 1)}
    texts = [model.tokenizer.bytes_of(i) for i in range(model.vocab)]
    compared = 0
    for _ in range(20):
        constraint, so_far = compiler.start(grammar), b""
        while True:
            allowed = set(np.flatnonzero(constraint.allowed()).tolist())
            expected = {i for i, text in enumerate(texts) if text and so_far + text in begun}
            may_end = so_far in whole
            assert bool(allowed & set(model.stop_ids)) == may_end
            allowed -= set(model.stop_ids)
            if may_end or len({texts[i][0] for i in expected}) > 1:
                assert allowed == expected
                compared += 1
            else:
                assert allowed <= expected and allowed
            if not allowed:
                break
            token = rng.choice(sorted(allowed))
            constraint.accept(token)
            so_far += texts[token]
    assert compared > 20


DRAFT = "https://json-schema.org/draft/2020-12/schema"


def suite(folder: Path) -> list[tuple[str, Any]]:
    """The JSON Schema test suite's, draft 2020-12, without those that need other documents or \\p, which `re` lacks."""
    found = []
    with tarfile.open(folder / "jsonschema/JSON-Schema-Test-Suite.tar.gz") as archive:
        for member in archive:
            if re.search(r"tests/draft2020-12/[^/]+\.json$", member.name):
                raw = archive.extractfile(member)
                assert raw
                groups = [g for g in json.load(io.TextIOWrapper(raw, "utf-8")) if isinstance(g, dict)]
                found += [
                    (f"{Path(member.name).stem}: {group['description']}", group["schema"])
                    for group in groups
                    if not re.search(r"http|\\\\p", json.dumps(group["schema"]).replace(DRAFT, ""))
                ]
    return found


def test_the_json_schema_test_suite(model: Model, shared_data: Path) -> None:
    """At temperature 1.5, every answer that comes to its end validates; every schema that is refused is told why."""
    finished, refused, cut = 0, 0, 0
    for n, (name, schema) in enumerate(suite(shared_data)):
        try:
            answer = model.generate("JSON, please.", schema=schema, temperature=1.5, seed=n, max_tokens=120)
        except GrammarError as error:
            assert len(error.message) > 20, name
            refused += 1
            continue
        if answer.finish_reason == "length":
            cut += 1
            continue
        finished += 1
        jsonschema.Draft202012Validator(schema).validate(json.loads(answer.text))
    assert finished >= 100, (finished, refused, cut)


whole = st.integers(-(1 << 52), 1 << 52)
names = st.text("abcdefgh", min_size=1, max_size=4)
leaves = st.one_of(
    st.builds(lambda low, n: {"type": "integer", "minimum": low, "maximum": low + n}, whole, st.integers(0, 99)),
    st.builds(lambda size: {"type": "string", "maxLength": size}, st.integers(0, 6)),
    st.builds(lambda values: {"enum": values}, st.lists(names | whole | st.none(), min_size=1, max_size=4)),
    st.sampled_from(
        [{"type": "boolean"}, {"type": "null"}, {"const": "x"}, {"type": ["string", "null"], "maxLength": 3}]
    ),
    st.sampled_from([{"type": "string", "pattern": "^[a-f]{1,3}$"}, {"type": "string", "format": "date"}]),
)


def _object(properties: dict[str, Any], optional: bool) -> dict[str, Any]:
    required = list(properties)[: len(properties) // 2 if optional else None]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(_object, st.dictionaries(names, inner, max_size=3), st.booleans()),
        st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.integers(0, 3)),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=250, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(schema=schemas, seed=st.integers(0, 1000))
def test_random_schemas(model: Model, schema: Any, seed: int) -> None:
    for lookup in (0, 8):
        answer = model.generate("x", schema=schema, temperature=1.5, seed=seed, max_tokens=400, lookup=lookup)
        if answer.finish_reason == "stop":
            checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
            checker.validate(json.loads(answer.text))


def test_forced_tokens_are_skipped_ahead(model: Model) -> None:
    schema = {
        "type": "object",
        "properties": {"a long and forced name": {"enum": [1, 2]}},
        "additionalProperties": False,
    }
    schema["required"] = list(schema["properties"])
    steps: list[int] = []
    run = model.scheduler._run
    model.scheduler._run = lambda feeds, **k: (steps.append(len(feeds[0].token_ids)), run(feeds, **k))[1]
    try:
        skipping = model.generate("x", schema=schema)
        quick = len(steps)
        told = model.generate("x", schema=schema, logprobs=0)
    finally:
        model.scheduler._run = run
    assert json.loads(skipping.text) == json.loads(told.text)
    assert len(skipping.token_ids) > 6 and quick <= 4 < len(steps) - quick
    assert len(told.logprobs) == len(told.token_ids)


def test_a_cut_answer_says_so(model: Model) -> None:
    answer = model.generate("x", schema={"type": "array", "items": {"type": "integer"}, "minItems": 50}, max_tokens=7)
    assert answer.finish_reason == "length" and len(answer.token_ids) == 7


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"regex": r"[0-9]{4}-[0-9]{2}"}, r"[0-9]{4}-[0-9]{2}"),
        ({"choices": ["yes", 'no "really"', "日本"]}, r'yes|no "really"|日本'),
        ({"lark": 'start: "a" b+\nb: "b" | "c" b'}, r"a(c*b)+"),
        ({"schema": True}, r"\{.*\}"),
    ],
)
def test_every_kind(model: Model, options: dict[str, Any], pattern: str) -> None:
    for seed in range(20):
        answer = model.generate("Well?", temperature=1.5, seed=seed, max_tokens=60, **options)
        assert answer.finish_reason == "length" or re.fullmatch(pattern, answer.text, re.DOTALL)


def test_a_class_that_describes_itself(model: Model) -> None:
    class Person:
        @staticmethod
        def model_json_schema() -> dict[str, Any]:
            age = {"type": "integer", "maximum": 9, "minimum": 0}
            return {"type": "object", "properties": {"age": age}, "required": ["age"], "additionalProperties": False}

    assert 0 <= json.loads(model.generate("Anna is 5.", schema=Person).text)["age"] <= 9


BAD: list[dict[str, Any]] = [
    {"schema": {"type": "foo"}}, {"schema": {"$ref": "http://example.com/x"}}, {"schema": {"$ref": "#/nowhere"}},
    {"schema": {"type": "string", "pattern": "(a"}}, {"schema": {"type": "integer", "minimum": 3, "maximum": 1}},
    {"schema": {"enum": []}}, {"schema": {"type": "string", "not": {"pattern": "a"}}}, {"schema": {"x": {1, 2}}},
    {"schema": {"minimum": float("nan")}}, {"schema": {"const": 1 << 60}},
    {"schema": 7}, {"schema": False}, {"schema": True, "regex": "a"},
    {"regex": "(a"}, {"regex": "^+["}, {"regex": 7}, {"regex": "a" * 2_000_000}, {"lark": ""}, {"lark": "start: x"},
    {"lark": 'start: start "a"'}, {"choices": []}, {"choices": [""]}, {"choices": [3]},
]  # fmt: skip


@pytest.mark.parametrize("options", BAD, ids=range(len(BAD)))
def test_what_cannot_be_used_is_refused_before_anything_is_generated(model: Model, options: dict[str, Any]) -> None:
    started = time.monotonic()
    with pytest.raises((GrammarError, UsageError)):
        model.stream("x", **options)
    assert time.monotonic() - started < 5


def bomb(kind: str) -> dict[str, Any]:
    if kind == "regex":
        return {"regex": "(((a{1,1000}){1,1000}){1,1000})b"}
    if kind == "deep":
        schema: Any = {"type": "string"}
        for _ in range(10_000):
            schema = {"type": "object", "properties": {"a": schema}}
        return {"schema": schema}
    if kind == "wide":
        return {"schema": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(100_000)}}}
    if kind == "enum":
        return {"schema": {"enum": [f"{n:05}" * 3 for n in range(100_000)]}}
    if kind == "cycle":
        return {"schema": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}}
    options = [{"anyOf": [{"type": "string", "minLength": n}, {"type": "integer", "minimum": n}]} for n in range(20)]
    return {"schema": {"allOf": options}}


@pytest.mark.parametrize("kind", ["deep", "wide", "enum", "cycle", "product", "regex"])
def test_schema_bombs_end_soon(model: Model, kind: str) -> None:
    """Refused, or answered, within seconds; the model still works."""
    started = time.monotonic()
    with contextlib.suppress(GrammarError):
        model.generate("x", **bomb(kind), max_tokens=5)
    assert time.monotonic() - started < 10
    assert model.generate("What is the capital of France?").text == "The capital of France is Paris."


def test_a_grammar_of_ever_more_readings_ends_before_it_holds_everyone_up(model: Model) -> None:
    grammars, letter = model.engine.grammars, model.tokenizer.encode("b")[0]
    assert grammars is not None
    walk = grammars.start(Grammar("lark", "start: start start | start | X\nX: /[a-z ]/"))
    with pytest.raises(GrammarError, match=r"cannot go on: .*Too many items.* \(simplify it\)$"):
        for _ in range(300):
            assert walk.allowed()[letter]
            walk.accept(letter)


def test_grammars_kept_are_bounded(model: Model) -> None:
    compiler = GrammarCompiler(model.tokenizer.as_json, model.vocab, model.stop_ids)
    for n in range(100):
        compiler.compile(json_grammar({"const": n}))
    assert len(compiler._kept) == 64


def test_padding_rows_stay_out_with_the_real_tokenizer(shared_data: Path) -> None:
    """64,400 entries of 65,536 rows; half the languages' texts pass through a grammar token by token."""
    from edge_lfm.text.tokenizer import Tokenizer

    folder = shared_data / "lfm2_tokenizer"
    tokenizer = Tokenizer(folder)
    compiler = GrammarCompiler(tokenizer.as_json, tokenizer.size, [7])
    for text in ("Hello, world!", "日本語のテキスト", "نص عربي", "한국어 텍스트", "Grüße — ça va? ¿Qué?"):
        constraint = compiler.start(Grammar("regex", "(.|\n)*"))
        for token in tokenizer.encode(text):
            allowed = constraint.allowed()
            assert allowed.shape == (tokenizer.size,) and allowed[token]
            constraint.accept(token)


def explosive(levels: int) -> dict[str, Any]:
    """A schema of a few hundred bytes whose branches, merged, are two to the power of `levels`."""
    doubled = {f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": doubled | {f"a{levels}": {"const": "zzz"}}, "$ref": "#/$defs/a0"}


@pytest.mark.parametrize(("seconds", "wait_s"), [(1, 60.0), (60, 0.5)])
def test_a_trial_ends_by_what_it_computes_and_by_how_long_it_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, seconds: int, wait_s: float
) -> None:
    monkeypatch.setattr("edge_lfm.engine.apart.MAX_SECONDS", seconds)
    monkeypatch.setattr("edge_lfm.engine.apart.MAX_WAIT_S", wait_s)
    n = 40
    steps = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(n)} | {f"a{n}": {"const": "zzz"}}
    with pytest.raises(GrammarError, match=f"longer than {seconds} s"):
        run_apart("json_fault", {"$defs": steps, "$ref": "#/$defs/a0"}, "5")


def test_who_waits_for_a_trial_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client has left, or others were there first: neither a thread nor a process remains."""
    monkeypatch.setattr("edge_lfm.engine.apart.MAX_PROCESSES", 1)
    monkeypatch.setattr("edge_lfm.engine.apart.MAX_WAITING", 1)
    monkeypatch.setattr("edge_lfm.engine.apart.MAX_SECONDS", 600)
    monkeypatch.setattr("edge_lfm.engine.apart.MAX_WAIT_S", 600.0)
    steps = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(40)} | {"a40": {"const": "zzz"}}
    endless = partial(run_apart, "json_fault", {"$defs": steps, "$ref": "#/$defs/a0"}, "5")
    outcomes: list[str] = []
    processes: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            processes.append(self)

    monkeypatch.setattr("edge_lfm.engine.apart.subprocess.Popen", Noted)

    def ask(left: threading.Event) -> None:
        try:
            within(600, endless, left)
        except (TimeoutError, BusyError) as error:
            outcomes.append(type(error).__name__)

    def begin() -> tuple[threading.Event, threading.Thread]:
        known, left = len(_line), threading.Event()
        thread = threading.Thread(target=ask, args=(left,))
        thread.start()
        while len(_line) == known:
            time.sleep(0.01)
        return left, thread

    running, waiting = begin(), begin()
    with pytest.raises(BusyError, match="too many"):
        endless()
    for left, thread in (waiting, running):
        left.set()
        thread.join(60)
        assert not thread.is_alive()
    assert outcomes == ["TimeoutError"] * 2 and not _line
    assert len(processes) == 1 and processes[0].returncode == -signal.SIGKILL
    monkeypatch.setattr("edge_lfm.engine.apart.MAX_QUEUE_S", 0.0)
    running = begin()
    with pytest.raises(BusyError, match="too many"):
        endless()
    running[0].set()
    running[1].join(60)
    assert run_apart("json_fault", {"type": "object"}, "{}") == [None, None]


def test_where_the_system_gives_no_process_one_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(BusyError, match="no process could be started"):
        run_apart("grammar", "regex", "a", {})


def test_a_grammar_from_a_stranger_is_tried_where_it_can_be_ended(model: Model) -> None:
    """Compiled here, it takes a minute and gigabytes of native code; whoever compiles another one does not wait."""
    compiler = GrammarCompiler(model.tokenizer.as_json, model.vocab, model.stop_ids)
    compiler.compile(json_grammar({"const": 0}))
    refused: list[str] = []

    def hostile() -> None:
        with pytest.raises(GrammarError) as told:
            compiler.compile(json_grammar(explosive(24)), apart=True)
        refused.append(str(told.value))

    thread = threading.Thread(target=hostile)
    thread.start()
    started = time.monotonic()
    compiler.compile(json_grammar({"const": 1}))
    assert time.monotonic() - started < 2
    thread.join(60)
    assert refused and ("takes" in refused[0] or "big" in refused[0])
    compiler.compile(json_grammar(explosive(3)), apart=True)


def test_grammars_kept_are_bounded_by_their_text(model: Model) -> None:
    compiler = GrammarCompiler(model.tokenizer.as_json, model.vocab, model.stop_ids)
    for n in range(8):
        compiler.compile(json_grammar({"enum": [f"value {i:06d} {n}" for i in range(20_000)]}))
    assert sum(len(g.source) for g in compiler._kept) <= 2_000_000 and len(compiler._kept) >= 2


def test_a_grammar_outlives_what_is_kept(model: Model) -> None:
    """A request holds what was compiled for it: nothing is compiled again between two steps."""
    compiler = GrammarCompiler(model.tokenizer.as_json, model.vocab, model.stop_ids)
    compiled = compiler.compile(json_grammar({"const": "x"}))
    compiler._kept.clear()
    assert compiled.start().allowed() is not None and not compiler._kept


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"schema": {"const": "a<|im_end|>b"}}, '"a<|im_end|>b"'),
        ({"choices": ["x <|im_start|> y"]}, "x <|im_start|> y"),
        ({"regex": r"<\|pad\|>ok"}, "<|pad|>ok"),
    ],
)
def test_a_grammar_that_spells_a_control_token_forces_text(model: Model, options: dict[str, Any], text: str) -> None:
    answer = model.generate("x", max_tokens=40, **options)
    assert answer.text == text and not any(map(model.tokenizer.is_control, answer.token_ids[:-1]))
