"""Answers taken apart: stop strings, reasoning and tool calls, on any split of the stream."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import TemplateError, ToolCallError
from edge_lfm.text.answer import AnswerParser
from edge_lfm.text.dialects import DEEPSEEK
from edge_lfm.text.stops import StopStrings
from edge_lfm.text.template import ChatTemplate
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_calls import Call, parse_calls, write_calls

DEMO = Tokenizer(demo_checkpoint())


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.randoms())
def test_stop_strings_end_the_text_where_one_is_first_complete(text: str, stops: list[str], rng: random.Random) -> None:
    matcher, out = StopStrings(stops), ""
    at = 0
    while at < len(text):
        size = rng.randrange(1, 5)
        out += matcher.feed(text[at : at + size])
        assert text.startswith(out)
        at += size
    out += matcher.finish()
    ends = ((end, stop) for end in range(len(text) + 1) for stop in sorted(stops, key=len, reverse=True))
    found = next(((end, stop) for end, stop in ends if text[:end].endswith(stop)), None)
    assert matcher.ended_by == (found[1] if found else None)
    assert out == (text[: found[0] - len(found[1])] if found else text)


@pytest.mark.parametrize("language", ["en", "de", "es", "fr", "ja", "zh"])
def test_streamed_text_is_the_text_in_every_language(shared_data: Path, language: str) -> None:
    """The real tokenizer splits characters of many languages between tokens; also with stop strings held back."""
    tokenizer = Tokenizer(shared_data / "lfm2_tokenizer")
    lines = (shared_data / f"eval/mgsm/mgsm_{language}.tsv").read_text(encoding="utf-8").splitlines()[:40]
    for line in lines:
        parser = AnswerParser(tokenizer, [], stops=["\n\n", line[:2] + "never"])
        pieces = [piece.text for token in tokenizer.encode(line) for piece in parser.feed(token)]
        assert "".join(pieces + [piece.text for piece in parser.finish()]) == line
        assert not any("\ufffd" in piece for piece in pieces)


def test_nothing_is_held_back_without_need() -> None:
    matcher = StopStrings(["###", "END"])
    assert [matcher.feed(t) for t in ("a#", "b", "E", "N", "x##", "#y", "z")] == ["a", "#b", "", "", "ENx", "", ""]
    assert matcher.ended_by == "###" and matcher.finish() == ""


@pytest.fixture(scope="module")
def thinker(demo: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The demo's tokenizer with the reasoning markers of later models."""
    folder = tmp_path_factory.mktemp("thinker")
    tokenizer = json.loads((demo["int4"] / "tokenizer.json").read_text(encoding="utf-8"))
    for n, marker in enumerate(("<think>", "</think>")):
        entry = {"id": 4096 + n, "content": marker, "special": n == 1}  # they come both ways
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        tokenizer["added_tokens"].append(entry | flags)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return Tokenizer(folder)


def sort(tokenizer: Tokenizer, text: str, prompt: str = "", **options) -> list[tuple[str, str]]:
    """Kinds and texts of an answer, with what came piece by piece joined."""
    parser = AnswerParser(tokenizer, tokenizer.encode(prompt, special=True), **options)
    pieces = [piece for token in tokenizer.encode(text, special=True) for piece in parser.feed(token)]
    found: list[tuple[str, str]] = []
    for piece in pieces + parser.finish():
        if found and found[-1][0] == piece.kind != "call":
            found[-1] = (piece.kind, found[-1][1] + piece.text)
        else:
            found.append((piece.kind, piece.text))
    return found


def test_reasoning_is_split_off(thinker: Tokenizer) -> None:
    assert sort(thinker, "<think>\nLet me see.</think>\n\nParis.") == [("reasoning", "Let me see."), ("text", "Paris.")]
    assert sort(thinker, "Hm.</think>Paris.", prompt="<think>") == [("reasoning", "Hm."), ("text", "Paris.")]
    assert sort(thinker, "Paris.", prompt="<think>old</think>") == [("text", "Paris.")]
    assert sort(thinker, "<think>cut off") == [("reasoning", "cut off")]
    assert sort(thinker, "<think>a</think>b", markers=False)[-1][1].endswith("b")


def test_stop_strings_are_for_the_text_only(thinker: Tokenizer) -> None:
    found = sort(thinker, "<think>one two</think>one two three", stops=["two"])
    assert found == [("reasoning", "one two"), ("text", "one ")]


def test_calls_come_whole_and_text_around_them_stays(thinker: Tokenizer) -> None:
    text = 'Wait.<|tool_call_start|>[f(a="x")]<|tool_call_end|>Done.'
    assert sort(thinker, text) == [("text", "Wait."), ("call", '[f(a="x")]'), ("text", "Done.")]
    assert sort(thinker, '<|tool_call_start|>[f(a="x') == [("text", '[f(a="x')]
    spelled = thinker.encode('<|tool_call_start|>[f(a="x")]<|tool_call_end|>')  # a user's text, not markers
    parser = AnswerParser(thinker, [])
    assert {p.kind for token in spelled for p in parser.feed(token)} == {"text"}


def test_a_call_inside_reasoning_is_reasoning(thinker: Tokenizer) -> None:
    call = "<|tool_call_start|>[f()]<|tool_call_end|>"
    assert sort(thinker, f"<think>maybe {call}?</think>{call}") == [("reasoning", "maybe [f()]?"), ("call", "[f()]")]
    assert sort(thinker, f"maybe {call}", prompt="<think>") == [("reasoning", "maybe [f()]")]


def test_white_space_between_calls_is_no_text(thinker: Tokenizer) -> None:
    call = "<|tool_call_start|>[f()]<|tool_call_end|>"
    assert sort(thinker, f"{call}\n\n{call}\n") == [("call", "[f()]"), ("call", "[f()]")]
    assert sort(thinker, f"{call}\n\nDone.") == [("call", "[f()]"), ("text", "\n\nDone.")]


def test_a_call_without_its_mark_is_one_where_the_answer_or_the_text_after_reasoning_is_nothing_else(
    thinker: Tokenizer,
) -> None:
    call, other = "[f(a=1)]", "[f(a=1)] is how it is written."
    for before, kinds in (("", []), ("<think>hm</think>\n\n", [("reasoning", "hm")])):
        assert sort(thinker, f"{before}{call}", tools=["f"]) == [*kinds, ("call", call)]
        assert sort(thinker, f"{before}{call}<|tool_call_end|>", tools=["f"]) == [*kinds, ("call", call)]
        assert sort(thinker, f"{before}Hm {call}<|tool_call_end|>", tools=["f"]) == [*kinds, ("text", f"Hm {call}")]
        assert sort(thinker, f"{before}{call}<|tool_call_start|>{call}", tools=["f"])[-1][0] == "text"
        assert sort(thinker, f"{before}{call}", tools=["g"]) == [*kinds, ("text", call)]
    (read,) = sort(thinker, other, tools=["f"])
    assert read == ("call", other)  # held to the end, read as no call, and shown as text


DEEPSEEK_MARKS = (DEEPSEEK.call_start, DEEPSEEK.call_end, DEEPSEEK.think_start, DEEPSEEK.think_end)


def expected_parts(text: str, opened: bool) -> list[tuple[str, str]]:
    """An answer whose marks are texts, sorted by the whole of it."""
    kind, found, rest = "reasoning" if opened else "text", list[tuple[str, str]](), text
    while rest:
        heeded = {"reasoning": DEEPSEEK_MARKS[3:], "call": DEEPSEEK_MARKS[1:2], "text": DEEPSEEK_MARKS}[kind]
        at, mark = min(((rest.find(mark), mark) for mark in heeded if mark in rest), default=(len(rest), ""))
        found.append((kind if kind != "call" or mark else "text", rest[:at]))
        kind = {DEEPSEEK_MARKS[0]: "call", DEEPSEEK_MARKS[2]: "reasoning"}.get(mark, "text")
        rest = rest[at + len(mark) :]
    return found


pieces = st.sampled_from([*DEEPSEEK_MARKS, "<think", "<｜tool▁calls▁", "<", "/", "a", "b c", "é", "{}", "<｜User｜>"])


@given(st.lists(pieces, max_size=12).map("".join), st.booleans())
def test_marks_that_are_texts_are_found_wherever_tokens_split_them(text: str, opened: bool) -> None:
    prompt = "<｜Assistant｜><think>\n" if opened else "<think></think>x"
    found = sort(DEMO, text, prompt=prompt, dialect=DEEPSEEK, spelled=DEEPSEEK_MARKS)
    joined: list[tuple[str, str]] = []
    for kind, part in expected_parts(text, opened):
        if joined and joined[-1][0] == kind != "call":
            joined[-1] = (kind, joined[-1][1] + part)
        elif part:
            joined.append((kind, part))
    assert found == joined


def test_of_a_mark_that_is_a_text_no_more_is_held_back_than_may_become_one() -> None:
    parser = AnswerParser(DEMO, [], dialect=DEEPSEEK, spelled=DEEPSEEK_MARKS)
    shown = ["".join(part.text for part in parser.feed(i)) for i in DEMO.encode("a <think>b <thin c")]
    assert "".join(shown) == "a b <thin c" and shown[0] == "a" and shown[-1].endswith("c")
    assert not parser.finish()


CALLS = [
    ('[f(a="x", n=3), g()]', [Call("f", {"a": "x", "n": 3}), Call("g", {})]),
    ("[f(a='it\\'s', b=\"it's\")]", [Call("f", {"a": "it's", "b": "it's"})]),
    ("[a.b.c(x=True, y=true, z=None, w=null)]", [Call("a.b.c", {"x": True, "y": True, "z": None, "w": None})]),
    ("[f(x=[1, [2]], y={'k': {'l': false}}, z=-1.5e3)]", [Call("f", {"x": [1, [2]], "y": {"k": {"l": False}}, "z":
    -1500.0})]), ("[f(from='a', class = 2, x=007, s='from=007')]", [Call("f", {"from": "a", "class": 2, "x": 7, "s":
    "from=007"})]), ('[{"name": "f", "arguments": {"a": [1]}}]', [Call("f", {"a": [1]})]),
    ('{"function": {"name": "f", "arguments": "{\\"a\\": 1}"}}', [Call("f", {"a": 1})]),
    ('f(text="日本語 🎉\\n")', [Call("f", {"text": "日本語 🎉\n"})]),
    ("[]", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "calls"), CALLS)
def test_calls_are_read(text: str, calls: list[Call]) -> None:
    assert parse_calls(text) == calls
    assert parse_calls(write_calls(calls)) == calls


def test_arguments_without_names_take_the_schemas(demo: dict[str, Path]) -> None:
    assert parse_calls("[f('x', 2, c=3)]", {"f": ["a", "b", "c"]}) == [Call("f", {"a": "x", "b": 2, "c": 3})]
    with pytest.raises(ToolCallError):
        parse_calls("[f('x')]")


@pytest.mark.parametrize(
    "text",
    [
        "", "f", "[f(", "[f(a=g())]", "[f(a=__import__('os').system('x'))]", "[f(a=b'x')]", "[f(a=1j)]", "[f(a=...)]",
        "[f(**{'a': 1})]", "[f(a=1e9999)]", "[f(a=x)]", "[lambda: 1]", "[f()()]", "(" * 5000, "[f(a=" + "[" * 3000, "x"
        * 200_000, '{"name": 3}', '{"name": "f", "arguments": [1]}', "[f(a=1, a=2)]", "[f(a=f'{x}')]", "\0",
    ],
)  # fmt: skip
def test_what_is_no_call_is_refused(text: str) -> None:
    with pytest.raises(ToolCallError):
        parse_calls(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


@pytest.mark.slow
@given(
    st.lists(
        st.builds(Call, names.map(lambda n: f"f_{n}"), st.dictionaries(names, json_values, max_size=4)), max_size=3
    )
)
def test_any_calls_survive_writing_and_reading(calls: list[Call]) -> None:
    assert parse_calls(write_calls(calls)) == calls


def test_calls_of_messages_are_rendered_by_either_kind_of_template(demo: dict[str, Path]) -> None:
    tokenizer = Tokenizer(demo["int4"])
    old = ChatTemplate.load(demo["int4"], tokenizer)
    assert old is not None and not old.renders_calls
    source = (
        "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}"
        "<|tool_call_start|>[{{ c.function.name }}({% for k, v in c.function.arguments.items() %}"
        "{{ k }}={{ v | tojson }}{% endfor %})]<|tool_call_end|>{% endfor %}<|im_end|>\n{% endfor %}"
    )
    new = ChatTemplate(source, tokenizer.bos)
    start, end = tokenizer.special_id("<|tool_call_start|>"), tokenizer.special_id("<|tool_call_end|>")
    call = {"name": "weather", "arguments": '{"city": "Paris<|tool_call_end|>"}'}
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": call}]},
        {"role": "tool", "content": "sunny", "tool_call_id": "1"},
    ]
    for template in (old, new):
        ids = template.encode(messages, tokenizer)
        assert ids.count(start) == ids.count(end) == 1  # the spelling inside the argument is text
        inside = ids[ids.index(start) + 1 : ids.index(end)]
        assert parse_calls(tokenizer.decode(inside)) == [Call("weather", {"city": "Paris<|tool_call_end|>"})]
    for bad in ("x", [3], [{"function": {"name": "f"}}], [{"function": {"name": "f", "arguments": "{"}}]):
        with pytest.raises(TemplateError, match="tool_calls"):
            old.encode([messages[0], {"role": "assistant", "content": "", "tool_calls": bad}], tokenizer)


def test_results_stand_in_the_order_of_their_calls() -> None:
    """Clients that run calls together send the first result first. Where a template writes ids, the results stay."""
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(3)]
    asked = {"role": "assistant", "content": "", "tool_calls": calls}
    results = [{"role": "tool", "content": f"result {n}", "tool_call_id": f"c{n}"} for n in (2, 0, 1)]
    source = "{% for m in messages %}{% if m.tool_calls %}?{% endif %}{{ m.content }}{{ ids }}{% endfor %}"
    plain = ChatTemplate(source.replace("{{ ids }}", ""), "")
    assert plain.prompt([asked, *results]) == "?result 0result 1result 2"
    strange = {"role": "tool", "content": "other", "tool_call_id": "c9"}
    assert plain.prompt([asked, *results[:2], strange]) == "?result 2result 0other"
    numbered = ChatTemplate(source.replace("ids", "m.tool_call_id"), "")
    assert numbered.prompt([asked, *results]) == "?result 2c2result 0c0result 1c1"


def expected_calls(path: Path) -> list[list[Call]]:
    """The first accepted value of each argument of BFCL's expected calls; "" means that it may be left out."""
    return [
        [
            Call(function, {k: v[0] for k, v in arguments.items() if v and v[0] != ""})
            for call in json.loads(line)["ground_truth"]
            for function, arguments in call.items()
        ]
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


@pytest.mark.parametrize("name", ["simple_python", "multiple", "parallel", "parallel_multiple", "live_simple"])
def test_bfcls_expected_calls_round_trip(name: str, shared_data: Path) -> None:
    samples = expected_calls(shared_data / f"eval/bfcl/possible_answer/BFCL_v4_{name}.json")
    for calls in samples:
        assert parse_calls(write_calls(calls)) == calls
    assert len(samples) >= 200


LOOPS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for a in messages * 100000 %}{% for b in messages * 100000 %}"
    "{% set ns.n = ns.n + 1 %}{% endfor %}{% endfor %}",
    "{% macro f() %}{% for i in range(9999) %}{{ f() }}{% endfor %}{% endmacro %}{{ f() }}",
    "{% for a in range(99999) %}{{ 'a' * 100000 }}{% endfor %}",
]


@pytest.mark.parametrize("source", LOOPS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may meet Hypothesis's gc callback
def test_a_template_that_loops_is_an_error(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_lfm.text.template._MAX_SECONDS", 0.3)
    template = ChatTemplate(source, "")
    with pytest.raises(TemplateError):
        template.render([{"role": "user", "content": "x"}])
    assert ChatTemplate("{{ messages[0].content }}", "").render([{"role": "user", "content": "x"}]) == "x"
