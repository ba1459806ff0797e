"""Verbs and methods that make many answers together: each answer is the one that its input gets alone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from edge_lfm import Generation, Model
from edge_lfm.cli import eval as eval_verb
from edge_lfm.cli.in_order import read_lines
from edge_lfm.cli.main import main
from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import UsageError
from edge_lfm.measure.tasks import Task, read_tasks

SCHEMA = {"type": "object", "properties": {"item": {"type": "string", "maxLength": 20}, "count": {"type": "integer"}}}


def edge_lfm(*arguments: str, text: str = "") -> str:
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", *arguments, "--threads", "1"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_extract_gives_what_each_line_gets_alone(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA | {"required": ["item", "count"]}), encoding="utf-8")
    text = "".join(f"Order {n}: {n} cups for Anna.\n" for n in range(20))
    command = ["extract", "--schema", str(tmp_path / "schema.json"), "--temp", "1", "--seed", "1", "-n", "60"]
    together, alone = (edge_lfm(*command, "--parallel", count, text=text) for count in ("8", "1"))
    assert together == alone and len(together.splitlines()) == 20


@pytest.mark.slow
def test_ask_answers_a_file_of_questions_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "manual.txt").write_text("Press the red button to reset the lamp. " * 10, encoding="utf-8")
    questions = [f"How do I reset lamp {n}?" for n in range(8)]
    (tmp_path / "questions.txt").write_text("\n\n".join(questions), encoding="utf-8")
    command = ["ask", "--doc", str(tmp_path / "manual.txt"), "--temp", "1", "--seed", "3", "-n", "30", "--no-cite"]
    together = edge_lfm(*command, "--questions", str(tmp_path / "questions.txt"), "--parallel", "8")
    found = [json.loads(line) for line in together.splitlines()]
    assert [answer["question"] for answer in found] == questions
    for number in (0, 5):
        alone = json.loads(edge_lfm(*command, questions[number], "--json"))
        assert {**found[number], "usage": None} == {"question": questions[number], **alone, "usage": None}
    reused = [answer["usage"]["cached_tokens"] for answer in found[1:]]
    assert min(reused) > 50  # the manual was read once


def test_a_question_and_a_file_of_them_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("Text.", encoding="utf-8")
    command = ["ask", "--doc", str(tmp_path / "a.txt"), "--questions"]
    assert main([*command, str(tmp_path / "a.txt"), "Why?"]) == 2
    assert "there are a question and --questions" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "none.txt")]) == 2
    assert "none.txt cannot be read" in capsys.readouterr().err


def test_lines_that_are_not_utf_8_are_told_by_their_number(tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_bytes(b"one\r\n\n  two \n\xff\nfour\n")
    lines = read_lines(str(tmp_path / "lines.txt"))
    assert [next(lines), next(lines)] == ["one", "two"]
    with pytest.raises(UsageError, match="line 4 is not UTF-8"):
        next(lines)


@pytest.mark.slow
def test_tasks_are_answered_as_each_alone(
    demo: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = (demo_checkpoint() / "tasks.jsonl").read_text(encoding="utf-8").splitlines()[::40]
    (tmp_path / "tasks.jsonl").write_text("\n".join(samples), encoding="utf-8")
    together: list[str] = []

    def keep(tasks: list[Task], answers: list[str], run_code: bool) -> list[bool]:
        together.extend(answers)
        return [True] * len(tasks)

    monkeypatch.setattr(eval_verb, "judge", keep)
    assert main(["eval", str(demo["int4"]), "--tasks", str(tmp_path / "tasks.jsonl"), "--json"]) == 0
    with Model.load(demo["int4"], threads=1, parallel=1) as model:
        assert model.tokenizer is not None
        for task, found in zip(read_tasks(tmp_path / "tasks.jsonl"), together, strict=True):
            prompt = model.tokenizer.encode(task.prompt, special=True)
            alone = model.generate(prompt, max_tokens=task.max_tokens, temperature=0.0, repeat_penalty=1.0)
            ids = [i for i in alone.token_ids if i not in model.stop_ids]
            assert found == model.tokenizer.decode(ids, special=True)


OPTIONS: dict[str, Any] = {"temperature": 1.2, "max_tokens": 16}


def test_several_answers_read_their_prompt_once_and_are_those_of_their_seeds(model: Model) -> None:
    prompt = "Tell me of the sun and the moon. " * 10
    before = model.steps.shared
    several = model.generate_several(prompt, 5, seed=7, **OPTIONS)
    assert model.steps.shared > before
    alone = [model.generate(prompt, seed=7 + n, **OPTIONS) for n in range(5)]
    assert [answer.token_ids for answer in several] == [answer.token_ids for answer in alone]
    count = several[0].timings.prompt_tokens
    assert [answer.timings.cached_tokens for answer in several[1:]] == [count - 1] * 4
    assert model.generate_several(prompt, 1, seed=7, **OPTIONS)[0].token_ids == alone[0].token_ids
    for count in (0, -1, 10**6):
        with pytest.raises(UsageError, match="count"):
            model.generate_several(prompt, count)


def test_texts_are_scored_together_and_as_alone(model: Model) -> None:
    """The requests of lm-evaluation-harness with `num_concurrent`: every token of a text, and one behind it."""
    texts = [f"The cat sat on the mat. The dog {word}." for word in ("sat", "barked at the cat", "is", "reads a book")]
    options: dict[str, Any] = {"raw": True, "max_tokens": 1, "logprobs": 1, "prompt_logprobs": True}
    alone = [model.generate(text, **options) for text in texts]
    gate, before = threading.Event(), model.steps.steps
    blocker = threading.Thread(target=lambda: model.scheduler.call(gate.wait))
    blocker.start()
    jobs = [model.submit(model.prepare(text, **options)) for text in texts]
    gate.set()
    together = [Generation(job).result() for job in jobs]
    blocker.join()
    assert [answer.prompt_logprobs for answer in together] == [answer.prompt_logprobs for answer in alone]
    assert model.steps.steps - before < len(texts)


def test_run_shows_several_answers(demo: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", str(demo["int4"]), "Tell me a story.", "--temp", "1", "--seed", "7", "-n", "12", "--answers"]
    assert main([*command, "3"]) == 0
    shown = capsys.readouterr().out.rstrip("\n").split("\n---\n")
    assert main([*command, "3", "--json"]) == 0
    assert [answer["text"] for answer in json.loads(capsys.readouterr().out)] == shown
    assert main([*command[:-5], "--seed", "9", "-n", "12"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == shown[2]
