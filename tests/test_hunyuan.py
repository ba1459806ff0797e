"""What Hunyuan-A13B alone has: marks that are letters, and a vocabulary of tiktoken."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import DATA, GOLDEN_CASES, write_checkpoint

from edge_lfm import Model
from edge_lfm.architectures.hunyuan import FAMILY
from edge_lfm.demo import demo_checkpoint
from edge_lfm.engine.answering import Request
from edge_lfm.engine.answering import _form as constraint_of
from edge_lfm.engine.constraints import Constraint
from edge_lfm.engine.grammar import Grammar, GrammarCompiler, json_grammar
from edge_lfm.engine.sampling import SamplingOptions
from edge_lfm.engine.spelled_reasoning import SpelledReasoningLimit
from edge_lfm.errors import ModelFileError
from edge_lfm.export.gguf import write_gguf
from edge_lfm.export.source import open_source
from edge_lfm.formats.checkpoint import FolderCheckpoint
from edge_lfm.formats.gguf_checkpoint import GgufCheckpoint
from edge_lfm.text.answer import AnswerParser
from edge_lfm.text.dialects import HUNYUAN
from edge_lfm.text.spelled_marks import spelled_marks
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_binding import bind_tool
from edge_lfm.text.tool_calls import answer_grammar
from edge_lfm.text.tools import read_tools

DEMO = Tokenizer(demo_checkpoint())
GOLDEN = json.loads((DATA / "tiktoken.json").read_text(encoding="utf-8"))
CALL = '[{"name": "f", "arguments": {"a": 1}}]'
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}


def sort(text: str) -> list[tuple[str, str]]:
    """The parts of an answer that comes token by token; neighbours of a kind are one."""
    parser = AnswerParser(DEMO, [], dialect=HUNYUAN, tools=["f"], spelled=spelled_marks(HUNYUAN, "", DEMO))
    parts = [part for token in DEMO.encode(text) for part in parser.feed(token)] + parser.finish()
    found: list[tuple[str, str]] = []
    for part in parts:
        if found and found[-1][0] == part.kind != "call":
            found[-1] = (part.kind, found[-1][1] + part.text)
        else:
            found.append((part.kind, part.text))
    return found


def test_marks_need_not_stand_in_the_template() -> None:
    assert set(spelled_marks(HUNYUAN, "", DEMO)) >= {"<think>", "</think>", "<answer>", "</answer>", "<tool_calls>"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (
            "<think>\nEasy.\n</think>\n<answer>\nIt is 4.\n\nSure.\n</answer>",
            [("reasoning", "Easy.\n"), ("text", "It is 4.\n\nSure.")],
        ),
        ("<think>\n\n</think>\n<answer>4</answer>", [("text", "4")]),
        ("It is 4.", [("text", "It is 4.")]),
        (f"<tool_calls>{CALL}</tool_calls>", [("call", CALL)]),
        (
            f"<think>\nHm.\n</think>\n<answer>\n<tool_calls>{CALL}</tool_calls>\n</answer>",
            [("reasoning", "Hm.\n"), ("call", CALL)],
        ),
        (
            f"<think>\nI write <tool_calls>{CALL}</tool_calls> or <answer>.\n</think>\n<answer>\nNo.\n</answer>",
            [("reasoning", f"I write <tool_calls>{CALL}</tool_calls> or <answer>.\n"), ("text", "No.")],
        ),
        (f"<think>a</think><answer>\n{CALL}\n</answer>", [("reasoning", "a"), ("call", CALL)]),
        ("<answer>a <answ", [("text", "a <answ")]),
        ("助手：Four.", [("text", "Four.")]),
        ("<think>\nHm.\n</think>\n<answer>\n助手：助手：x\n</answer>", [("reasoning", "Hm.\n"), ("text", "助手：x")]),
        ("助", [("text", "助")]),
        (f"助<tool_calls>{CALL}</tool_calls>", [("text", "助"), ("call", CALL)]),
        ("He says 助手：x", [("text", "He says 助手：x")]),
    ],
)
def test_an_answer_is_sorted_by_marks_that_are_letters(text: str, parts: list[tuple[str, str]]) -> None:
    assert sort(text) == parts


END = DEMO.encode("<|im_end|>", special=True)[0]
COMPILER = GrammarCompiler(lambda: (demo_checkpoint() / "tokenizer.json").read_text("utf-8"), DEMO.size, [END])


def accepts(text: str, parallel: bool = True, required: bool = False) -> bool:
    tools = [bind_tool(tool) for tool in read_tools([TOOL])]
    grammar = COMPILER.compile(Grammar("lark", answer_grammar(HUNYUAN, tools, DEMO, parallel, required))).start()
    for token in DEMO.encode(text):
        allowed = grammar.allowed()
        if allowed is not None and not allowed[token]:
            return False
        grammar.accept(token)
    allowed = grammar.allowed()
    return grammar.ended or allowed is None or bool(allowed[END])


@pytest.mark.parametrize(
    ("text", "parallel", "required", "accepted"),
    [
        ("Just text.", True, False, True),
        ("<think>\nHm.\n</think>\n<answer>\nText.\n</answer>", True, False, True),
        (f"<think>\nHm.\n</think>\n<answer>\n<tool_calls>{CALL}</tool_calls>\n</answer>", True, False, True),
        (f"<answer>\n<tool_calls>{CALL}</tool_calls>\n</answer>", True, False, True),
        ("<think>\n<tool_calls>[what?\n</think>\n<answer>\nText.\n</answer>", True, False, True),  # no call in thoughts
        ("<think>\nHm.\n</think>\n<answer>\n<tool_calls>[what?", True, False, False),
        ("<tool_calls>[what?", True, False, False),
        (f"<tool_calls>{CALL[:-1]}, {CALL[1:]}</tool_calls>", True, False, True),
        (f"<tool_calls>{CALL[:-1]}, {CALL[1:]}</tool_calls>", False, False, False),
        ("Just text.", True, True, False),
        (f"<tool_calls>{CALL}</tool_calls>", True, True, True),
        (f"<think>\n<tool_calls>?</think>\n<answer>\n<tool_calls>{CALL}</tool_calls>\n</answer>", True, True, True),
        ("<think>\nHm.\n</think>\n<answer>\nText.\n</answer>", True, True, False),
        (f" <tool_calls>{CALL}</tool_calls>", True, True, False),
        (f"<answer>\n<tool_calls>{CALL}</tool_calls></answer>", True, True, True),
        ('<tool_calls>[{"name": "g", "arguments": {}}]</tool_calls>', True, True, False),
    ],
)
def test_calls_are_bound_where_no_token_begins_them(text: str, parallel: bool, required: bool, accepted: bool) -> None:
    assert accepts(text, parallel, required) is accepted


END = 7  # <|im_end|>
FORM = json_grammar({"type": "object", "properties": {"yes": {"type": "boolean"}}, "additionalProperties": False})


def framed(prompt: str, budget: int | None = None) -> Constraint:
    """What an answer in a form must be, behind the end of a prompt."""
    request = Request(
        tuple(DEMO.encode(prompt)), SamplingOptions(), 100, dialect=HUNYUAN, grammar=COMPILER.compile(FORM),
        spelled=spelled_marks(HUNYUAN, "", DEMO), reasoning_budget=budget,
    )  # fmt: skip
    made = constraint_of(SimpleNamespace(tokenizer=DEMO, vocab=DEMO.size, stop_ids=(END,)), request)
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("prompt", "answer", "accepted"),
    [
        ("", '<think>\nHm.\n</think>\n<answer>\n{"yes": true}', True),
        ("", '<think>{"yes": <answer> or so</think><answer>\n{}', True),
        ("", '<answer>\n{"yes": true}', True),
        ("", '{"yes": true}', False),
        ("", "Sure.", False),
        ("", "<answer>\nSure.", False),
        ("", "<think>\nHm.\n</think>\nSure.", False),
        ("<think>\n", 'Hm.\n</think>\n<answer>\n{"yes": false}', True),
        ("<think>\n", '{"yes": false}', False),
        ("<think>\n\n</think>\n", '<answer>\n{"yes": false}', True),
        ("<think>\n\n</think>\n", '\n<answer>\n{"yes": false}', False),  # the break would be text
        ("<think>\n\n</think>\n", '<think>\nHm.\n</think>\n<answer>\n{"yes": false}', False),
    ],
)
def test_a_form_is_that_of_the_answer_behind_the_thoughts(prompt: str, answer: str, accepted: bool) -> None:
    guide, (marks, form) = framed(prompt), re.fullmatch(r"(?s)(.*<answer>\n|)(.*)", answer).groups()
    for token in [*DEMO.encode(marks), *DEMO.encode(form)]:  # a token may not reach from one into the other
        allowed = guide.allowed()
        if allowed is not None and not allowed[token]:
            assert not accepted
            return
        guide.accept(token)
    assert guide.ended is accepted


def test_an_answer_that_owes_a_form_does_not_end_within_its_thoughts() -> None:
    guide = framed("")
    for token in DEMO.encode("<think>\nHm."):
        guide.accept(token)
    allowed = guide.allowed()
    assert allowed is not None and not allowed[END] and allowed.sum() > DEMO.size // 2


def test_every_way_through_the_marks_ends_in_the_form() -> None:
    """Whatever of the tokens that may come is drawn, thoughts come first or not at all, and the form is kept."""
    seen = set()
    for seed in range(30):
        rng, guide, ids = np.random.default_rng(seed), framed("", budget=6), list[int]()
        while not guide.ended and len(ids) < 80:
            mask = guide.allowed()
            ids.append(int(rng.choice(np.arange(DEMO.size) if mask is None else np.flatnonzero(mask))))
            guide.accept(ids[-1])
            ids += guide.forced(30)
        kinds = dict(sort(DEMO.decode(ids, special=True)))
        seen |= kinds.keys()
        assert json.loads(kinds["text"]) in ({}, {"yes": True}, {"yes": False})
    assert seen == {"reasoning", "text"}


@pytest.mark.parametrize(("begin", "budget"), [("<think>", 0), ("<think>", 4), ("\n<think>\n", 4)])
def test_thoughts_before_calls_have_a_limit(begin: str, budget: int) -> None:
    tools = [bind_tool(tool) for tool in read_tools([TOOL])]
    grammar = COMPILER.compile(Grammar("lark", answer_grammar(HUNYUAN, tools, DEMO, True, False)))
    for inner in (grammar.start(), None):
        guide = SpelledReasoningLimit(inner, ("<think>", "</think>"), DEMO, DEMO.size, budget)
        for token in DEMO.encode(begin):
            guide.accept(token)
        written = bytearray()
        while b"</think>" not in written:
            mask = guide.allowed()
            token = DEMO.encode("x")[0] if mask is None or mask[DEMO.encode("x")[0]] else int(np.flatnonzero(mask)[0])
            written += DEMO.bytes_of(token)
            guide.accept(token)
            assert len(written) < 40
        assert written.count(b"x") <= budget
        mask = guide.allowed()
        assert mask is None or mask.sum() > 1


@pytest.mark.slow
def test_a_model_thinks_and_answers_in_a_form(demo: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(demo["int4"], folder)
    (folder / "tokenizer_config.json").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}{# <tool_calls>[{ #}"
    )
    thought = 0
    with Model.load(folder, threads=1, context=512) as model:
        for seed in range(8):
            answer = model.generate("Yes or no?", choices=["yes", "no"], seed=seed, temperature=1.5, reasoning_budget=5)
            assert answer.text in ("yes", "no") and answer.finish_reason == "stop"
            assert answer.reasoning_tokens <= 5 + len(DEMO.encode("</think>"))
            thought += bool(answer.reasoning)
        raw = model.generate("Yes or no?", choices=["yes", "no"], raw=True)
        assert raw.text in ("yes", "no") and not raw.reasoning
        assert not model.generate("Yes?", max_tokens=30, reasoning_budget=0, seed=1).reasoning
    assert thought


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint as the hub's: a vocabulary of tiktoken, no tokenizer.json."""
    vocabulary = GOLDEN["vocabulary"].encode()
    rows = len(vocabulary.splitlines()) + len(GOLDEN["specials"])
    folder = write_checkpoint(tmp_path / "checkpoint", GOLDEN_CASES["hunyuan"] | {"vocab_size": rows})
    (folder / "hy.tiktoken").write_bytes(vocabulary)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|eos|>", "bos_token": "<|bos|>"}))
    return folder


def check_goldens(files: dict[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    tokenizer = Tokenizer(folder)
    for text, ids in zip(GOLDEN["texts"], GOLDEN["ids"], strict=True):
        assert tokenizer.encode(text, special=True) == ids, text


def test_texts_are_encoded_as_tiktoken_encodes_them(checkpoint: Path, tmp_path: Path) -> None:
    assert FAMILY.tiktoken is not None and list(FAMILY.tiktoken.specials) == GOLDEN["specials"]
    with FolderCheckpoint(checkpoint) as source:
        check_goldens(source.text_files, tmp_path / "out")


def test_the_vocabulary_goes_out_to_gguf_and_in(checkpoint: Path, tmp_path: Path) -> None:
    """But for words that are tokens and that no merges give: GGUF has no key that keeps them whole."""
    with open_source(checkpoint) as source:
        write_gguf(source, tmp_path / "m.gguf", "f32")
    with GgufCheckpoint(tmp_path / "m.gguf") as again, FolderCheckpoint(checkpoint) as first:
        one, other = (json.loads(c.text_files["tokenizer.json"]) for c in (first, again))
        assert other["model"]["ignore_merges"] is False
        one["model"]["ignore_merges"] = False
        for name in GOLDEN["specials"]:  # GGUF has one list for both
            del other["model"]["vocab"][name]
        assert one == other


@pytest.mark.parametrize(
    ("line", "word"), [("no base64!", "line 3 is no token"), ("YQ==", "line 3 is no token"), ("", "line 3 is no token")]
)
def test_a_broken_vocabulary_is_refused_with_its_line(checkpoint: Path, line: str, word: str) -> None:
    lines = GOLDEN["vocabulary"].splitlines()
    (checkpoint / "hy.tiktoken").write_text("\n".join([*lines[:2], line, *lines[3:]]))
    with pytest.raises(ModelFileError, match=word):
        FolderCheckpoint(checkpoint)


def test_a_byte_without_a_token_is_refused(checkpoint: Path) -> None:
    lines = GOLDEN["vocabulary"].splitlines()
    (checkpoint / "hy.tiktoken").write_text("\n".join([*lines[:7], *lines[8:]]))
    with pytest.raises(ModelFileError, match="no token for the byte 7"):
        FolderCheckpoint(checkpoint)
