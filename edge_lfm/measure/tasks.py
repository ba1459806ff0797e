"""Task samples with checks that a program can make: the demo model's held-out set, or a user's own.

A file of JSON lines: {"task", "prompt" (text with special tokens), "max_tokens", "check", "expect", "answer"}. Knows
how an answer is judged, and how two models are compared on the same questions; does not know how answers are made.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_lfm.errors import ModelFileError, UsageError
from edge_lfm.formats.strict import parse_json, read_bytes
from edge_lfm.measure.sandbox import Job, run_jobs


@dataclass(frozen=True)
class Task:
    """One sample; `expect` is what the check compares with."""

    task: str
    prompt: str
    max_tokens: int
    check: str
    expect: Any
    answer: str
    raw: bool = False  # for `exec`: the answer is code itself, not a chat message with a code block


def read_tasks(path: Path) -> list[Task]:
    """The samples of a file.

    Raises:
        UsageError: the file cannot be read, or a line is no sample.
    """
    try:
        tasks = [_task(parse_json(line)) for line in read_bytes(path).split(b"\n") if line.strip()]
    except ModelFileError as error:
        raise UsageError(error.message, hint="give a file of JSON lines") from None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} holds no task samples: {error}", hint="see edge_lfm/measure/tasks.py") from None
    unknown = {task.check for task in tasks} - {*_CHECKS, "exec"}
    if unknown or not tasks:
        raise UsageError(f"{path}: unknown checks {sorted(unknown)}", hint=f"known: {', '.join(_CHECKS)}, exec")
    return tasks


def _task(line: Any) -> Task:
    """A line's sample; ValueError or TypeError: it is none."""
    task = Task(**line)
    kinds = {"task": str, "prompt": str, "max_tokens": int, "check": str, "answer": str, "raw": bool}
    wrong = [name for name, kind in kinds.items() if type(getattr(task, name)) is not kind]
    if task.check in ("contains_all", "story"):
        wrong += [] if isinstance(task.expect, list) and all(isinstance(v, str) for v in task.expect) else ["expect"]
    if task.check == "tool":
        wrong += [] if isinstance(task.expect, list) and len(task.expect) == 2 else ["expect"]
    if task.check == "exec":
        texts = ("pre", "post", "ref", "name")
        is_code = isinstance(task.expect, dict) and all(isinstance(task.expect.get(name), str) for name in texts)
        tests = task.expect.get("tests") if is_code else None
        wrong += [] if isinstance(tests, list) and all(isinstance(test, list) for test in tests) else ["expect"]
    if wrong:
        raise ValueError(f"{', '.join(wrong)} of a sample is of another type")
    return task


def judge(tasks: Sequence[Task], answers: Sequence[str], run_code: bool = False) -> list[bool | None]:
    """Whether each answer (special tokens kept, end token removed) is right; None: not judged.

    run_code: judge the check `exec` too, by running what the answers hold in a process that can do nothing else.

    Raises:
        SandboxError: this machine cannot confine a process.
    """
    verdicts: list[bool | None] = []
    code = [n for n, task in enumerate(tasks) if task.check == "exec"]
    for task, answer in zip(tasks, answers, strict=True):
        if task.check == "exec":
            verdicts.append(None)
            continue
        try:
            verdicts.append(bool(_CHECKS[task.check](task, answer.strip())))
        except (ValueError, SyntaxError, TypeError, AttributeError, IndexError, RecursionError, MemoryError):
            verdicts.append(False)
    if run_code:
        for n, right in zip(code, _run_code([(tasks[n], answers[n]) for n in code]), strict=True):
            verdicts[n] = right
    return verdicts


@dataclass(frozen=True)
class Paired:
    """Two models on the same questions; `p`: of the sign test that they are equally good."""

    lost: int  # right before, wrong now
    won: int
    p: float


def compare(before: Sequence[bool | None], now: Sequence[bool | None]) -> Paired:
    """The exact two-sided sign test on the questions where the verdicts differ (McNemar 1947)."""
    lost = sum(b is True and n is False for b, n in zip(before, now, strict=True))
    won = sum(n is True and b is False for b, n in zip(before, now, strict=True))
    flips = lost + won
    tail = sum(math.comb(flips, k) for k in range(min(lost, won) + 1)) / 2**flips
    return Paired(lost, won, min(1.0, 2 * tail))


def _whole(word: str, text: str) -> bool:
    return re.search(r"(?<!\w)" + re.escape(word) + r"(?!\w)", text) is not None


def _number(task: Task, answer: str) -> bool:
    numbers = re.findall(r"-?\d+", answer)
    return bool(numbers) and int(numbers[-1]) == task.expect


def _tool(task: Task, answer: str) -> bool:
    match = re.search(r"<\|tool_call_start\|>(.*?)<\|tool_call_end\|>", answer, re.DOTALL)
    if match is None:
        return False
    tree = ast.parse(match[1].strip(), mode="eval").body
    call: Any = tree.elts[0] if isinstance(tree, ast.List) else tree
    arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return [call.func.id, arguments] == list(task.expect)


def _story(task: Task, answer: str) -> bool:
    return all(word in answer for word in task.expect) and len(answer.split()) >= 12 and answer[-1] in '.!?"'


_CHECKS: dict[str, Callable[[Task, str], bool]] = {
    "contains": lambda t, a: _whole(str(t.expect), a) and len(a) <= 2 * len(t.answer) + 40,
    "contains_all": lambda t, a: all(_whole(v, a) for v in t.expect),
    "exact": lambda t, a: a == t.answer.strip(),
    "notool": lambda t, a: a == t.answer.strip(),
    "number": _number,
    "json": lambda t, a: json.loads(a) == t.expect,
    "tool": _tool,
    "story": _story,
}


def _code_of(task: Task, answer: str) -> str | None:
    """The code that an answer holds."""
    if task.raw:
        return answer
    block = re.search(r"```python\n(.*?)```", answer, re.DOTALL)
    return block[1] if block else None


def _run_code(jobs: Sequence[tuple[Task, str]]) -> list[bool]:
    """Whether each answer's function returns what the reference function returns; both run confined, apart."""
    verdicts = [False] * len(jobs)
    runnable: list[tuple[int, Job, Job]] = []
    for n, (task, answer) in enumerate(jobs):
        code, expect = _code_of(task, answer), task.expect
        if code is not None:
            theirs, reference = (
                Job(source, expect["name"], expect["tests"])
                for source in (expect["pre"] + code + expect["post"], expect["ref"])
            )
            runnable.append((n, theirs, reference))
    results = run_jobs([job for _, *both in runnable for job in both]) if runnable else []
    for (n, _, _), given, right in zip(runnable, results[::2], results[1::2], strict=True):
        verdicts[n] = right is not None and _same(given, right)
    return verdicts


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except RecursionError:
        return False
