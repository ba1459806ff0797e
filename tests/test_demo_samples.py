"""The generator of the demo model's samples: every answer passes its own check, and the splits share no value."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edge_lfm.demo import demo_checkpoint
from edge_lfm.measure.tasks import Task, judge
from edge_lfm.text.template import ChatTemplate
from edge_lfm.text.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

from demo.render import pieces_of, prompt_of
from demo.sample import Draw, Sample, assistant, held, word_lists
from demo.tasks import MAKERS, samples
from demo.tasks.client_tools import _KNOWN, _form, written


def drawn(split: str, count: int = 60) -> list[Sample]:
    return [sample for name in MAKERS for sample in samples("1", split, count, 0.3, [name])]


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_answer_is_right(split: str) -> None:
    found = drawn(split)
    tasks = [Task(s.name, "", 0, s.check, s.expect, s.answer, s.raw_prompt is not None) for s in found]
    verdicts = judge(tasks, [task.answer for task in tasks], run_code=True)
    assert not [task for task, right in zip(tasks, verdicts, strict=True) if not right]
    assert any(sample.unseen for sample in found) == (split == "test")


def test_the_same_seed_draws_the_same_samples() -> None:
    assert list(samples("7", "train", 50, 0.5)) == list(samples("7", "train", 50, 0.5))
    assert list(samples("7", "train", 50)) != list(samples("8", "train", 50))


def test_splits_share_no_value() -> None:
    for make in (Draw.word, Draw.noun, Draw.verb, Draw.name, Draw.place, lambda d: str(d.number(100, 9999))):
        train, test = (Draw("3", split) for split in ("train", "test"))
        assert not {make(train) for _ in range(2000)} & {make(test) for _ in range(2000)}
    assert 0.09 < sum(held(str(n)) for n in range(10_000)) / 10_000 < 0.16


def test_a_noun_is_the_same_tokens_wherever_it_stands() -> None:
    """So that copying it is copying tokens, not spelling."""
    tokenizer = Tokenizer(demo_checkpoint())
    nouns = word_lists()[0]
    same = [
        noun
        for noun in nouns
        if all(tokenizer.encode(before + noun)[1:] == tokenizer.encode(noun) for before in (" ", '"', "_"))
    ]
    assert len(same) >= 0.85 * len(nouns)


def test_unseen_tools_have_names_that_training_cannot_draw() -> None:
    names = {
        split: {
            tool.get("function", tool)["name"]
            for sample in samples("5", split, 3000, only=["tool"])
            for tool in sample.tools or []
        }
        for split in ("train", "test")
    }
    shared = names["train"] & names["test"]
    assert len(shared) <= 20, "only the known tools"


def test_a_form_of_a_clients_tools_is_of_one_split() -> None:
    forms = {split: {written(_form(draw)) for _ in range(1500)} for split, draw in
             ((split, Draw("4", split)) for split in ("train", "test"))}  # fmt: skip
    assert not forms["train"] & (forms["test"] | set(map(written, _KNOWN)))
    assert set(map(written, _KNOWN)) <= forms["test"] and min(map(len, forms.values())) > 500
    for word in ("additionalProperties", "strict", "$schema", "title", "anyOf"):
        assert any(f'"{word}"' in form for form in forms["train"])


def test_conversations_are_written_as_the_template_writes_them() -> None:
    template = ChatTemplate.load(demo_checkpoint(), Tokenizer(demo_checkpoint()))
    assert template is not None
    for sample in drawn("train", 20):
        if sample.raw_prompt is not None:
            continue
        rendered = template.render(sample.messages, tools=sample.tools)
        assert prompt_of(sample) == rendered
        whole = "".join(text for text, _ in pieces_of(sample))
        assert whole == template.render(
            [*sample.messages, assistant(sample.answer)], tools=sample.tools, add_generation_prompt=False
        )
        assert f"{sample.answer}<|im_end|>" in [text for text, written in pieces_of(sample) if written]
