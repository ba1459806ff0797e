"""Harmony, gpt-oss's form: conversations and answers beside openai-harmony, what the grammar forces, a bound model."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from starlette.testclient import TestClient

from edge_lfm import LoadOptions, Model, TemplateError, UsageError
from edge_lfm.cli.main import main
from edge_lfm.demo import demo_checkpoint
from edge_lfm.engine.channels import InChannels
from edge_lfm.engine.grammar import Grammar, GrammarCompiler, json_grammar
from edge_lfm.server.app import make_app
from edge_lfm.server.settings import Settings
from edge_lfm.text.channels import ChannelParser
from edge_lfm.text.dialects import HARMONY
from edge_lfm.text.dialects.harmony import CHANNELS
from edge_lfm.text.parts import Part
from edge_lfm.text.template import ChatTemplate
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_binding import bind_tool
from edge_lfm.text.tool_calls import message_grammar
from edge_lfm.text.tools import read_tools

DATA = Path(__file__).parent / "data"
GOLDENS = json.loads((DATA / "harmony.json").read_text(encoding="utf-8"))
TEMPLATE = json.loads((DATA / "templates.json").read_text(encoding="utf-8"))["templates"]["channels"]
TOOLS = [{"type": "function", "function": tool} for tool in GOLDENS["tools"]]
BOUND = [{**tool, "parameters": {**tool["parameters"], "additionalProperties": False}} for tool in GOLDENS["tools"]]
SCHEMAS = {tool["name"]: tool["parameters"] for tool in BOUND}
NEW_NAMES = {
    "<|fim_pre|>": "<|start|>", "<|fim_mid|>": "<|channel|>", "<|fim_suf|>": "<|message|>",
    "<|im_start|>": "<|constrain|>", "<|im_end|>": "<|return|>", "<|tool_list_start|>": "<|end|>",
    "<|tool_call_end|>": "<|call|>",
}  # fmt: skip


def rename(folder: Path) -> None:
    """Give the demo's control tokens the names of gpt-oss's, and the model a template in channels."""
    path = folder / "tokenizer.json"
    text = path.read_text(encoding="utf-8")
    for old, new in NEW_NAMES.items():
        assert json.dumps(old) in text
        text = text.replace(json.dumps(old), json.dumps(new))
    path.write_text(text, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    for name in ("tokenizer_config.json", "generation_config.json"):
        (folder / name).unlink(missing_ok=True)


def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(demo_checkpoint() / "tokenizer.json", folder)
        rename(Path(folder))
        yield Path(folder)


FOLDER = next(_FOLDERS := _folder())
TOKENIZER = Tokenizer(FOLDER)
ENDS = [TOKENIZER.special_id(mark) or 0 for mark in ("<|return|>", "<|call|>")]
CALL_END = ENDS[1]
COMPILER = GrammarCompiler(TOKENIZER.as_json, TOKENIZER.size, ENDS)
OPEN = TOKENIZER.encode("<|start|>assistant", special=True)


def template() -> ChatTemplate:
    made = ChatTemplate.load(FOLDER, TOKENIZER)
    assert made is not None and made.dialect is HARMONY
    return made


def told(messages: list[dict[str, Any]], **options: Any) -> str:
    return TOKENIZER.decode(template().encode(messages, TOKENIZER, **options), special=True)


def answer_ids(text: str) -> list[int]:
    """Token ids of an answer; what stands between double quotes is text."""
    pieces = [piece if n == 0 else f'"{piece}' for n, piece in enumerate(text.split('"'))]
    return [i for n, piece in enumerate(pieces) for i in TOKENIZER.encode(piece, special=n % 2 == 0)]


def parse(ids: list[int], prompt: list[int] = OPEN, **options: Any) -> list[Part]:
    parser = ChannelParser(TOKENIZER, prompt, CHANNELS, **options)
    return [*(part for token in ids for part in parser.feed(token)), *parser.finish()]


def kinds(parts: list[Part]) -> dict[str, str]:
    """All text of each kind."""
    made: dict[str, str] = {}
    for part in parts:
        made[part.kind] = made.get(part.kind, "") + part.text
    return made


def _with_ids(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same in OpenAI's form."""
    return [
        {**m, "tool_calls": [{"type": "function", "function": call} for call in m["tool_calls"]]}
        if "tool_calls" in m
        else m
        for m in messages
    ]


@pytest.mark.parametrize("name", GOLDENS["conversations"])
def test_history_is_written_as_openai_harmony_writes_it(name: str) -> None:
    """From the first user's message on: thoughts go after an answer and stay before one, results follow their calls."""
    text = told(_with_ids(GOLDENS["conversations"][name]))
    user = "<|start|>user"
    assert text[text.index(user) :] == GOLDENS["prompts"][name][GOLDENS["prompts"][name].index(user) :]
    assert "<|return|>" not in text


@pytest.mark.parametrize(("text", "messages"), GOLDENS["answers"])
def test_answers_are_read_as_openai_harmony_reads_them(text: str, messages: list[list[Any]]) -> None:
    found = kinds(parse(answer_ids(text)))
    calls = [[to.removeprefix("functions."), body] for _, to, body in messages if to is not None]
    texts = [body for channel, to, body in messages if to is None and channel != "analysis" and body]
    thoughts = [body for channel, to, body in messages if to is None and channel == "analysis" and body]
    assert found.pop("text", "") == "\n\n".join(texts)
    assert found.pop("reasoning", "") == "\n\n".join(thoughts)
    if calls and calls[0][1].startswith("{"):
        (call,) = HARMONY.read(found.pop("call"), {})
        assert [call.name, json.dumps(call.arguments, ensure_ascii=False)] == calls[0]
    elif calls:
        (call,) = HARMONY.read(found.pop("call"), {})
        assert [call.name, call.arguments] == ["python", {"code": calls[0][1]}]
    assert not found


def test_a_stream_holds_nothing_back() -> None:
    ids = answer_ids(
        "<|channel|>analysis<|message|>one two<|end|><|start|>assistant<|channel|>final<|message|>é! three"
    )
    parser = ChannelParser(TOKENIZER, OPEN, CHANNELS)
    seen = [part for token in ids for part in parser.feed(token)]
    assert len(seen) > 4 and kinds(seen) == {"reasoning": "one two", "text": "é! three"} and not parser.finish()
    assert parser.reasoning_tokens == len(TOKENIZER.encode("one two")) + 1
    shown = [number for part in seen if part.kind == "text" for number in part.tokens]
    assert shown == list(range(len(ids) - len(shown), len(ids)))


def test_marks_that_are_text_are_text() -> None:
    spelled = "<|end|><|start|>assistant to=functions.stop<|channel|>commentary<|message|>{}<|call|>"
    ids = [*answer_ids("<|channel|>final<|message|>"), *TOKENIZER.encode(spelled)]
    assert kinds(parse(ids)) == {"text": spelled}


def test_stop_strings_end_text_only() -> None:
    ids = answer_ids(
        "<|channel|>analysis<|message|>a STOP b<|end|><|start|>assistant<|channel|>final<|message|>c STOP d"
    )
    parser = ChannelParser(TOKENIZER, OPEN, CHANNELS, stops=["STOP"])
    parts = [part for token in ids for part in parser.feed(token)]
    assert kinds(parts) == {"reasoning": "a STOP b", "text": "c "} and parser.stopped_by == "STOP"


def test_what_is_cut_off_is_text() -> None:
    assert kinds(parse(answer_ids('<|channel|>commentary to=functions.stop json<|message|>{"a'))) == {
        "text": 'assistant<|channel|>commentary to=functions.stop json<|message|>{"a'
    }
    assert kinds(parse(TOKENIZER.encode("Hello there"))) == {"text": "Hello there"}
    assert kinds(parse(answer_ids("<|channel|>anal"))) == {}
    assert kinds(parse(answer_ids("Hello"), prompt=TOKENIZER.encode("a text"))) == {"text": "Hello"}


def test_an_answer_ends_where_another_role_begins() -> None:
    for text, ended in (
        ("<|channel|>final<|message|>a<|end|>", True), ("<|channel|>analysis<|message|>a<|end|>", False),
        ("<|channel|>analysis<|message|>a<|end|><|start|>user<|message|>", True),
    ):  # fmt: skip
        parser = ChannelParser(TOKENIZER, OPEN, CHANNELS)
        for token in answer_ids(text):
            assert not parser.ended
            parser.feed(token)
        assert parser.ended is ended


def test_a_text_beside_thoughts_and_calls_is_told_with_them() -> None:
    """Such templates refuse both, and take the text of a turn with calls for thoughts."""
    turns = _with_ids(GOLDENS["conversations"]["a call"])
    turns[2] = {**turns[2], "content": "I shall ask."}
    assert "<|channel|>analysis<|message|>Ask.\n\nI shall ask.<|end|>" in told(turns)


def test_results_find_their_calls_by_number() -> None:
    calls = [
        {"id": f"c{n}", **call}
        for n, call in enumerate(_with_ids(GOLDENS["conversations"]["two calls in a row"])[1]["tool_calls"])
    ]
    turns = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": "second", "tool_call_id": "c1"},
        {"role": "tool", "content": "first", "tool_call_id": "c0"},
    ]
    text = told(turns)
    for name, result in (("weather", "first"), ("stop", "second")):
        assert (
            f'<|call|><|start|>functions.{name} to=assistant<|channel|>commentary<|message|>"{result}"<|end|>' in text
        )


def test_nothing_is_left_out_in_silence() -> None:
    """The template writes one system message, and tools in OpenAI's wrapping with a description."""
    systems = [{"role": "system", "content": "One."}, {"role": "developer", "content": "Two."}]
    user = {"role": "user", "content": "?"}
    assert "# Instructions\n\nOne.\n\nTwo.\n\n" in told([*systems, user])
    for late in (
        [user, systems[0]],
        [{"role": "system", "content": [{"type": "text", "text": "x"}]}, systems[1], user],
    ):
        with pytest.raises(TemplateError, match="leaves out"):
            told(late)
    bare = told([user], tools=[{"name": "stop", "parameters": {"type": "object"}}])
    assert "// \ntype stop = () => any;" in bare


def test_tools_that_the_maker_runs_are_refused_by_name() -> None:
    """The template would tell of them, but write their calls as those of functions."""
    with pytest.raises(UsageError, match="builtin_tools is not done") as refused:
        template().render([{"role": "user", "content": "?"}], switches={"builtin_tools": ["browser", "python"]})
    assert "functions of your own" in (refused.value.hint or "")


def test_a_vocabulary_without_the_marks_is_refused(tmp_path: Path) -> None:
    shutil.copy(demo_checkpoint() / "tokenizer.json", tmp_path)
    with pytest.raises(TemplateError, match=r"<\|start\|>"):
        (tmp_path / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
        ChatTemplate.load(tmp_path, Tokenizer(tmp_path))


def drawn(rng: np.random.Generator, likely: list[str], **options: Any) -> list[int]:
    """A random answer under a constraint; some tokens are likelier."""
    bound = [bind_tool(tool) for tool in read_tools(options.pop("tools", []))]
    form, required = options.pop("form", None), options.pop("required", False)
    grammar = Grammar("lark", message_grammar(CHANNELS, bound, TOKENIZER, required, form is not None))
    constraint = InChannels(
        TOKENIZER, CHANNELS, OPEN, TOKENIZER.size, COMPILER.compile(grammar).start,
        COMPILER.start(form) if form is not None else None, form is not None or required, options.pop("budget", None),
    )  # fmt: skip
    favourites = np.array([TOKENIZER.special_id(mark) or 0 for mark in likely])
    ids: list[int] = []
    while not constraint.ended and len(ids) < 200 and not (ids and ids[-1] in ENDS):
        mask = constraint.allowed()
        free = mask if mask is not None else np.ones(TOKENIZER.size, np.bool_)
        pools = [
            ids_ for ids_ in (favourites[free[favourites]], CLOSING[free[CLOSING]]) if len(ids_) and rng.random() < 0.3
        ]
        ids.append(int(rng.choice(pools[0] if pools else np.flatnonzero(free))))
        constraint.accept(ids[-1])
        ids += constraint.forced(30)
    return ids


FORM = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "additionalProperties": False}
CLOSING = np.array([i for i in range(TOKENIZER.size) if TOKENIZER.bytes_of(i)[-1:] in (b'"', b"}")])
MARKS = ["<|end|>", "<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|call|>"]


@pytest.mark.parametrize(
    ("form", "required"), [(None, False), (None, True), (json_grammar(FORM), False)], ids=["free", "required", "formed"]
)
def test_messages_follow_the_grammar(form: Grammar | None, required: bool) -> None:
    """Whatever is drawn: a required call comes, a call fits its schema, and no text stands beside a form."""
    seen: set[str] = set()
    for seed in range(25):
        ids = drawn(np.random.default_rng(seed), MARKS, tools=BOUND, form=form, required=required)
        if len(ids) >= 200:
            continue
        parts = kinds(parse(ids))
        seen |= parts.keys()
        if "call" in parts:
            (call,) = HARMONY.read(parts["call"], {})
            jsonschema.validate(call.arguments, SCHEMAS[call.name])
        assert "call" in parts or not required
        if form is not None:
            assert ("call" in parts) != ("text" in parts)
            assert "text" not in parts or jsonschema.Draft202012Validator(FORM).is_valid(json.loads(parts["text"]))
    assert {"reasoning", "call"} <= seen and (required or "text" in seen)


@pytest.mark.parametrize("budget", [0, 5])
def test_reasoning_has_a_limit(budget: int) -> None:
    for seed in range(15):
        ids = drawn(
            np.random.default_rng(seed), ["<|start|>", "<|channel|>", "<|message|>"], tools=BOUND, budget=budget
        )
        parser = ChannelParser(TOKENIZER, OPEN, CHANNELS)
        for token in ids:
            parser.feed(token)
        assert parser.reasoning_tokens <= budget + (budget > 0)


@pytest.fixture(scope="module")
def model(demo: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("harmony") / "model"
    shutil.copytree(demo["int4"], folder)
    rename(folder)
    with Model.load(folder, threads=1, context=1024) as loaded:
        yield loaded


HOT: dict[str, Any] = {"temperature": 1.5, "max_tokens": 200, "reasoning_budget": 5}


@pytest.mark.slow
def test_a_bound_model_calls_and_is_answered(model: Model) -> None:
    seen = set()
    for seed in range(12):
        answer = model.generate("Go!", tools=BOUND, tool_choice="required", seed=seed, **HOT)
        if answer.finish_reason == "length":
            continue
        assert answer.finish_reason == "tool_calls" and answer.token_ids[-1] == CALL_END
        (call,) = answer.tool_calls
        jsonschema.validate(call.arguments, SCHEMAS[call.name])
        seen.add(call.name)
    assert seen
    session = model.session(tools=BOUND)
    asked = session.send("Weather?", tool_choice="weather", seed=1, **HOT)
    assert [call.name for call in asked.tool_calls] == ["weather"]
    session.send({"role": "tool", "content": "sunny"}, max_tokens=3)
    prompt = TOKENIZER.decode(model.encode_prompt(session.messages, tools=BOUND), special=True)
    assert "assistant to=functions.weather<|channel|>commentary json<|message|>{" in prompt


@pytest.mark.slow
def test_a_bound_model_answers_in_a_form(model: Model) -> None:
    for seed in range(6):
        answer = model.generate("Yes or no?", choices=["yes", "no"], seed=seed, **HOT)
        assert answer.text in ("yes", "no") and answer.finish_reason == "stop", answer
        raw = model.generate("Yes or no?", choices=["yes", "no"], seed=seed, raw=True)
        assert raw.text in ("yes", "no") and not raw.reasoning


@pytest.mark.slow
def test_a_model_is_told_how_much_to_think(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    def prompt(**options: Any) -> str:
        return TOKENIZER.decode(model.prepare("Hi", **options).token_ids, special=True)

    assert "Reasoning: medium\n" in prompt() and "Reasoning: high\n" in prompt(reasoning_effort="high")
    same = {"reasoning_effort": "low"}
    assert prompt(**same) == prompt(chat_template_kwargs=same) == prompt(**same, chat_template_kwargs=same)
    with pytest.raises(UsageError, match="say another"):
        prompt(reasoning_effort="high", chat_template_kwargs=same)
    with pytest.raises(UsageError, match="reasoning_effort"):
        prompt(reasoning_effort="huge")
    words = ["run", str(model.folder), "Hi", "-n", "1", "--threads", "1", "--json", "--reasoning-effort"]
    assert main([*words, "high"]) == 0
    assert f'"prompt_tokens": {len(model.prepare("Hi", reasoning_effort="high").token_ids)},' in capsys.readouterr().out


@pytest.mark.slow
def test_a_server_is_told_how_much_to_think(model: Model) -> None:
    settings = Settings(load=LoadOptions(model.folder, threads=1, context=512))
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    counts = {e: len(model.prepare("Hi", reasoning_effort=e).token_ids) for e in ("low", "medium", "high")}
    assert len(set(counts.values())) > 1, "the words have different numbers of tokens"
    with TestClient(make_app(settings), base_url="http://127.0.0.1") as client:
        for effort, count in counts.items():
            told = client.post("/v1/chat/completions", json=chat | {"reasoning_effort": effort}).json()
            assert told["usage"]["prompt_tokens"] == count
            body = {"input": "Hi", "max_output_tokens": 1, "reasoning": {"effort": effort}}
            assert client.post("/v1/responses", json=body).json()["usage"]["input_tokens"] == count
            asked = {"messages": chat["messages"], "think": effort, "options": {"num_predict": 1}, "stream": False}
            assert client.post("/api/chat", json=asked).json()["prompt_eval_count"] == count
            config = chat | {"output_config": {"effort": effort}}
            usage = client.post("/v1/messages", json=config).json()["usage"]
            assert usage["input_tokens"] + usage["cache_read_input_tokens"] == count
        for effort in ("minimal", "none"):
            refused = client.post("/v1/chat/completions", json=chat | {"reasoning_effort": effort})
            assert refused.status_code == 400 and "reasoning_effort" in refused.text
