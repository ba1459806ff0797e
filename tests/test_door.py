"""The front door: types that an editor checks, arguments checked again at run time, one family of errors."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import edge_lfm
from edge_lfm import (
    AnswerOptions,
    EdgeLfmError,
    LoadOptions,
    Model,
    SamplingArguments,
    SamplingOptions,
    Session,
    UsageError,
    api,
    errors,
)
from edge_lfm.api.options import TurnOptions

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DOCUMENTS = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/api.md")]
BLOCKS = [block for text in DOCUMENTS for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


@pytest.fixture(scope="module")
def model(demo: dict[str, Path]) -> Iterator[Model]:
    with Model.load(demo["int4"], threads=1, context=512) as loaded:
        yield loaded


# What an editor says.

GOOD = """
    import asyncio
    from edge_lfm import AnswerOptions, Completion, Done, LoadOptions, Model, Text, UsageError

    load = LoadOptions("folder", ram="4G", kv_dtype="int8", paging="map")

    def ask(model: Model, prompt: str, **options: int) -> str:
        chosen: AnswerOptions = {"temperature": 0.3, "stop": ["a", "b"], "max_tokens": None, "overflow": "drop_oldest"}
        for event in model.stream(prompt, **chosen):
            match event:
                case Text(text):
                    print(text)
                case Done(completion):
                    print(completion.usage["total_tokens"])
        session = model.session(system="Be brief.", overflow="drop_oldest")
        answer: Completion = session.send("x", temperature=1, tool_choice={"name": "f"}, documents=["a", {"text": "b"}])
        model.classify([{"role": "user", "content": "x"}], ["a", "b"], examples=[("a", "b")])
        return model.ask_until("x", lambda text: None if text else "empty.", tries=2, schema={"type": "object"}).text

    async def ask_async(model: Model) -> str:
        async for event in model.stream_async([1, 2, 3], logprobs=2):
            print(event)
        return (await model.generate_async("x", lookup=4)).text

    with Model.load("folder", threads=2, backend="native") as model, Model.open(load) as other:
        try:
            ask(model, "x")
            asyncio.run(ask_async(other))
        except UsageError as error:
            print(error.hint, error.exit_code)
"""
BAD = {
    'model.generate("x", temprature=0.3)': '"temprature" for "generate" of "Model"; did you mean "temperature"?',
    'model.generate("x", temperature="hot")': 'incompatible type "str"; expected "float | None"',
    "model.generate(None)": 'Argument 1 to "generate" of "Model" has incompatible type "None"',
    'model.stream("x", stop=5)': 'Argument "stop" to "stream" of "Model" has incompatible type "int"',
    'model.stream_async("x", max_token=5)': '"max_token" for "stream_async" of "Model"; did you mean "max_tokens"?',
    'model.session(overflow="forget")': 'Argument "overflow" to "session" of "Model" has incompatible type',
    'model.session().send("x", tools=[])': 'Unexpected keyword argument "tools" for "send" of "Session"',
    "model.session().regenerate(sed=1)": 'Unexpected keyword argument "sed" for "regenerate" of "Session"',
    'model.classify("x", [1, 2])': 'incompatible type "int"; expected "str"',
    'model.ask_until("x", 5)': 'Argument 2 to "ask_until" of "Model" has incompatible type "int"',
    'Model.load(kv_dtype="float8")': """expected "Literal['float16', 'int8']\"""",
    'Model.load(rams="4G")': 'Unexpected keyword argument "rams" for "load" of "Model"',
    'Model.load("x", "4G")': 'Too many positional arguments for "load" of "Model"',
    'LoadOptions(paging="often")': 'Argument "paging" to "LoadOptions" has incompatible type',
    "SamplingOptions(top_k=0.5)": 'Argument "top_k" to "SamplingOptions" has incompatible type "float"',
    "from edge_lfm import NoSuchName": 'Module "edge_lfm" has no attribute "NoSuchName"',
}


def test_an_editor_refuses_what_is_wrong_and_takes_what_is_right(tmp_path: Path) -> None:
    """mypy --strict on a user's file: an error on each line of the bad one, none in the good one."""
    pytest.importorskip("mypy")
    good = {"good.py": textwrap.dedent(GOOD)}
    good |= {f"good_{path.name}": path.read_text(encoding="utf-8") for path in (ROOT / "examples").glob("*.py")}
    good |= {f"good_block_{n}.py": block for n, block in enumerate(BLOCKS)}
    for name, text in good.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    head = "from edge_lfm import LoadOptions, Model, SamplingOptions\nmodel = Model.load()\n"
    (tmp_path / "bad.py").write_text(head + "\n".join(BAD), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "--cache-dir"]
    done = subprocess.run(
        [*command, str(tmp_path / "cache"), "--follow-imports", "silent", *good, "bad.py"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "good" not in done.stdout, done.stdout + done.stderr
    said = {int(line.split(":")[1]): line for line in done.stdout.splitlines() if ": error:" in line}
    for number, (line, expected) in enumerate(BAD.items(), 3):
        assert expected in said.get(number, f"nothing about {line}\n{done.stdout}{done.stderr}")


@pytest.mark.parametrize("block", BLOCKS, ids=["README", "api"])
def test_the_examples_of_the_documents_run(demo: dict[str, Path], tmp_path: Path, block: str) -> None:
    (tmp_path / "lfm2-24b").symlink_to(demo["int4"])
    done = subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout.count("\n") >= 2, done.stderr


def test_the_options_of_sampling_are_the_fields_of_sampling_options() -> None:
    ours, theirs = get_type_hints(SamplingArguments), get_type_hints(SamplingOptions)
    assert list(ours) == [f.name for f in fields(SamplingOptions)]
    assert all(ours[name] in (theirs[name], theirs[name] | None) for name in ours)


# What is said at run time.


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda m: m.generate("x", temprature=0.3), "temperature"),
        (lambda m: m.stream("x", max_token=3), "max_tokens"),
        (lambda m: m.generate("x", reasonning_budget=3), "reasoning_budget"),
        (lambda m: m.session().send("x", tempature=0), "temperature"),
        (lambda m: m.session(sistem="x"), "system"),
        (lambda m: m.encode_prompt("x", row=True), "raw"),
        (lambda m: m.classify("x", ["a"], example=[]), "examples"),
        (lambda m: m.ask_until("x", str, tris=1), "tries"),
        (lambda m: m.complete("x", max_tokns=1), "max_tokens"),
        (lambda m: Model.load(treads=1), "threads"),
        (lambda m: LoadOptions(pagin="map"), "paging"),
        (lambda m: SamplingOptions(temperatur=1), "temperature"),
        (lambda m: m.sampling.changed(sed=1), "seed"),
        (lambda m: Model.load(kv_type="int8"), "kv_dtype"),
    ],
)
def test_a_misspelt_option_names_what_was_meant(model: Model, call: Callable[[Model], object], meant: str) -> None:
    with pytest.raises(UsageError, match=rf"unknown option '\w+' \(did you mean .*\b{meant}\b"):
        call(model)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.generate(None), "prompt is None"),
        (lambda m: m.generate({"role": "user", "content": "x"}), "prompt is a value of type dict"),
        (lambda m: m.generate([{"role": "x", "content": "x"}]), "message 0 has the unknown role 'x'"),
        (lambda m: m.generate([{"role": "user"}]), "message 0 has no content"),
        (lambda m: m.generate([{"role": "user", "content": 5}]), "the content of message 0 is 5"),
        (lambda m: m.generate([5, "x"]), "prompt is"),
        (lambda m: m.generate([5, 10**9]), "token 1 is 1000000000"),
        (lambda m: m.generate(b"text"), "prompt is b'text'"),
        (lambda m: m.generate("x", stop=5), "stop is 5"),
        (lambda m: m.generate("x", system=5), "system is 5"),
        (lambda m: m.generate("x", documents="x"), "documents is 'x'"),
        (lambda m: m.generate("x", system="x", raw=True), "a system message needs a chat"),
        (lambda m: m.generate("x", max_tokens=True), "max_tokens is True"),
        (lambda m: m.generate("x", cite=1), "cite is 1"),
        (lambda m: m.generate("x", overflow="forget"), "overflow is 'forget'.*'refuse' or 'drop_oldest'"),
        (lambda m: m.generate("x", temperature=float("nan")), "temperature is nan"),
        (lambda m: m.generate("x", logit_bias={"a": 1}), "logit_bias is"),
        (lambda m: m.generate(), "missing a required argument: 'prompt'"),
        (lambda m: m.session().send("x", tools=[]), "unknown option 'tools'"),
        (lambda m: m.session().send([{"role": "user", "content": "x"}, 5]), "content is"),
        (lambda m: m.stream_async("x"), "no event loop"),
        (lambda m: Model.load("a", "b"), "too many positional arguments"),
        (lambda m: Model.load(kv_dtype="float8"), "kv_dtype is 'float8'.*'float16' or 'int8'"),
        (lambda m: Model.load("a\0b"), "path is"),
        (lambda m: Model.load("x" * 300), "path is"),
        (lambda m: Model.open({}), "options is a value of type dict"),
        (lambda m: Model("folder"), r"Model\.load"),
        (lambda m: Session("folder"), "model is 'folder'"),
        (lambda m: SamplingOptions(top_k=0.5), "top_k is 0.5 .*a whole number"),
    ],
)
def test_what_is_wrong_is_named(model: Model, call: Callable[[Model], object], said: str) -> None:
    with pytest.raises(EdgeLfmError, match=said):
        call(model)


def test_an_edited_conversation_is_checked(model: Model) -> None:
    session = model.session()
    for messages in (5, [5], [{"role": "x", "content": "x"}], [{"content": "x"}]):
        session.messages = messages  # type: ignore[assignment]
        with pytest.raises(EdgeLfmError):
            session.send("x")
    session.messages = [{"role": "user", "content": "x", "when": object()}]
    with pytest.raises(UsageError, match="cannot be written"):
        session.save("x.session")


WRONG = [None, True, 0, -1, 5, 10**30, 0.5, float("nan"), float("inf"), "", "x", "\0", "\ud800", b"x", [], [5], ["x"]]
WRONG += [[None], [[]], {}, {"a": 1}, {1: 2}, {5}, (), ("a", "b"), object(), int, len, np.zeros(2), np.arange(3), 1j]
values = st.one_of(
    st.sampled_from(WRONG),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=5,
    ),
)
OPTIONS = get_type_hints(AnswerOptions)
TURN = get_type_hints(TurnOptions)


def only_ours(call: Callable[[], object]) -> None:
    """Run it: it works, or fails with an error of ours."""
    try:
        result = call()
    except EdgeLfmError as error:
        assert str(error) and "\n" not in error.hint
    else:
        if hasattr(result, "close"):
            result.close()


CALLS: dict[str, Callable[[Model, Any, Path], object]] = {
    "generate": lambda m, v, _: m.generate(v, max_tokens=1),
    "stream": lambda m, v, _: m.stream(v),
    "generate_async": lambda m, v, _: asyncio.run(_answer(m, v)),
    "chat": lambda m, v, _: m.chat(v, max_tokens=1),
    "prepare": lambda m, v, _: m.prepare(v),
    "submit": lambda m, v, _: m.submit(v),
    "logits": lambda m, v, _: m.logits(v),
    "encode_prompt": lambda m, v, _: m.encode_prompt(v),
    "encode_prompt system": lambda m, v, _: m.encode_prompt("x", v),
    "encode_prompt raw": lambda m, v, _: m.encode_prompt("x", raw=v),
    "encode_prompt tools": lambda m, v, _: m.encode_prompt("x", tools=v),
    "encode_gap": lambda m, v, _: m.encode_gap(v, v),
    "complete": lambda m, v, _: m.complete(v, max_tokens=1),
    "complete after": lambda m, v, _: m.complete("x", v, max_tokens=1),
    "classify": lambda m, v, _: m.classify(v, ["a"]),
    "classify labels": lambda m, v, _: m.classify("x", v),
    "classify examples": lambda m, v, _: m.classify("x", ["a"], examples=v),
    "ask_until": lambda m, v, _: m.ask_until(v, str, 1, max_tokens=1),
    "ask_until tries": lambda m, v, _: m.ask_until("x", lambda t: None, v, max_tokens=1),
    "change_budget": lambda m, v, _: m.change_budget(v),
    "session": lambda m, v, _: m.session(v),
    "session tools": lambda m, v, _: m.session(tools=v),
    "session overflow": lambda m, v, _: m.session(overflow=v),
    "restore": lambda m, v, _: m.restore(v),
    "send": lambda m, v, _: m.session().send(v, max_tokens=1),
    "regenerate": lambda m, v, _: _with_messages(m, v).regenerate(max_tokens=1),
    "undo": lambda m, v, _: m.session().undo(),
    "save": lambda m, v, folder: m.session().save(_inside(folder, v)),
    "json_check": lambda m, v, _: api.json_check(v)("{}"),
    "json_check text": lambda m, v, _: api.json_check({})(v),
    "json_check keyword": lambda m, v, _: api.json_check({"items": v, "pattern": v, "minimum": v})("[1]"),
    "csv_grammar": lambda m, v, _: api.csv_grammar(v),
    "csv_grammar column": lambda m, v, _: api.csv_grammar({"a": v}),
    "csv_grammar rows": lambda m, v, _: api.csv_grammar({"a": "text"}, v),
    "table_grammar": lambda m, v, _: api.table_grammar(v),
    "table_grammar column": lambda m, v, _: api.table_grammar({"a": v}),
    "xml_grammar": lambda m, v, _: api.xml_grammar(v),
    "xml_grammar inside": lambda m, v, _: api.xml_grammar({"a": v}),
    "Retry": lambda m, v, _: api.Retry([], str, v),
}


async def _answer(model: Model, prompt: Any) -> object:
    return await model.generate_async(prompt, max_tokens=1)


def _with_messages(model: Model, messages: Any) -> Session:
    session = model.session()
    session.messages = messages
    return session


def _inside(folder: Path, name: Any) -> Any:
    """Texts name files of the test's folder; everything else stays as it is."""
    return f"{folder}/{name}" if isinstance(name, str) and not name.startswith("/") else name


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_wrong_arguments_raise_our_errors_only(model: Model, tmp_path: Path, call: Callable[..., object]) -> None:
    for value in WRONG:
        only_ours(lambda value=value: call(model, value, tmp_path))  # type: ignore[misc]


@pytest.mark.parametrize("name", OPTIONS)
def test_wrong_options_raise_our_errors_only(model: Model, name: str) -> None:
    session = model.session()
    for value in WRONG:
        only_ours(lambda value=value: model.stream("x", **{"max_tokens": 1, name: value}))  # type: ignore[misc]
        only_ours(lambda value=value: model.prepare([5], **{name: value}))  # type: ignore[misc]
        only_ours(lambda value=value: session.stream("x", **{"max_tokens": 1, name: value}))  # type: ignore[misc]


@pytest.mark.parametrize("name", [f.name for f in fields(LoadOptions)])
def test_wrong_load_options_raise_our_errors_only(tmp_path: Path, name: str) -> None:
    for value in WRONG:
        if name == "path":
            only_ours(lambda value=value: Model.load(tmp_path if value is None else _inside(tmp_path, value)))  # type: ignore[misc]
        else:
            only_ours(lambda value=value: LoadOptions(**{name: value}))  # type: ignore[misc]
            only_ours(lambda value=value: Model.load(tmp_path, **{name: value}))  # type: ignore[misc]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(OPTIONS)), value=values, prompt=values)
def test_whatever_is_asked_raises_our_errors_only(model: Model, name: str, value: Any, prompt: Any) -> None:
    only_ours(lambda: model.prepare("x", **{name: value}))  # type: ignore[misc]
    only_ours(lambda: model.prepare(prompt))
    only_ours(lambda: model.prepare([{"role": "user", "content": prompt}]))
    only_ours(lambda: model.prepare([{"role": "assistant", "content": "", "tool_calls": prompt}]))
    only_ours(lambda: model.prepare("x", tools=[{"name": "f", "parameters": value}]))
    only_ours(lambda: model.prepare("x", tools=[{"name": "f", "parameters": {"properties": {"a": value}}}]))


def test_after_its_end_a_model_says_so(demo: dict[str, Path]) -> None:
    with Model.load(demo["int4"], threads=1) as closed:
        session = closed.session()
    for call in (closed.generate, closed.logits, closed.change_budget, session.send, closed.restore, session.save):
        only_ours(lambda call=call: call("1"))  # type: ignore[misc]


# Copies.


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_copying_says_what_to_do_instead(model: Model, copied: Callable[[object], object]) -> None:
    with model.stream("x", max_tokens=1) as generation:
        for thing, instead in ((model, "Model.open"), (model.session(), r"fork\(\)"), (generation, r"result\(\)")):
            with pytest.raises(UsageError, match=instead):
                copied(thing)
    for plain in (LoadOptions("x", ram="4G"), SamplingOptions(seed=3), UsageError("what", "hint")):
        again = pickle.loads(pickle.dumps(plain))
        assert vars(again) == vars(plain) and type(again) is type(plain)


# What is public.


def test_what_is_public_is_exported_once() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    from_errors = {name for name in edge_lfm.__all__ if name in kinds}
    assert set(edge_lfm.__all__) - from_errors <= set(api.__all__)
    for name in edge_lfm.__all__:
        assert getattr(edge_lfm, name) is getattr(errors if name in kinds else api, name)
    assert set(edge_lfm.__all__) <= set(dir(edge_lfm))
    with pytest.raises(AttributeError):
        edge_lfm.NoSuchName  # noqa: B018


def test_every_public_name_is_documented() -> None:
    """A docstring in the code, and a place in docs/api.md."""
    document = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    for name in sorted({*edge_lfm.__all__, *api.__all__}):
        value = getattr(edge_lfm, name, None) or getattr(api, name)
        assert re.search(rf"\b{name}\b", document), f"docs/api.md does not name {name}"
        if isinstance(value, type) or inspect.isfunction(value):
            assert (getattr(value, "__doc__", None) or "").strip(), f"{name} has no docstring"
    for kind in (Model, Session, api.Generation, api.AsyncGeneration, api.Retry):
        public = [n for n in dir(kind) if not n.startswith("_")]
        silent = [n for n in public if not (getattr(kind, n).__doc__ or "").strip()]
        assert not silent, f"{kind.__name__} has methods without a docstring: {silent}"
    for name in (*TURN, *OPTIONS, *(f.name for f in fields(LoadOptions))):
        where = f"{SamplingOptions.__doc__}{TurnOptions.__doc__}{AnswerOptions.__doc__}{LoadOptions.__doc__}"
        assert name in where, f"{name} is told nowhere"
    told = re.findall(r"`(\w+)`", document)
    assert set(OPTIONS) - set(get_type_hints(SamplingArguments)) <= set(told)
    assert {f.name for f in fields(LoadOptions)} <= set(told)
