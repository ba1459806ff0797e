"""Task samples with checks that a program can make: the demo model's held-out set, or a user's own.

A file of JSON lines: {"task", "prompt" (text with special tokens), "max_tokens", "check", "expect", "answer"}. Knows
how an answer is judged, and how two models are compared on the same questions; does not know how answers are made.
"""

from __future__ import annotations

import ast
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_lfm.errors import UsageError


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
        lines = path.read_text(encoding="utf-8").splitlines()
        tasks = [Task(**json.loads(line)) for line in lines if line.strip()]
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="give a file of JSON lines") from None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} holds no task samples: {error}", hint="see edge_lfm/engine/tasks.py") from None
    unknown = {task.check for task in tasks} - {*_CHECKS, "exec"}
    if unknown or not tasks:
        raise UsageError(f"{path}: unknown checks {sorted(unknown)}", hint=f"known: {', '.join(_CHECKS)}, exec")
    return tasks


def judge(tasks: Sequence[Task], answers: Sequence[str]) -> list[bool]:
    """Whether each answer (special tokens kept, end token removed) is right."""
    verdicts, code = [], []
    for n, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
        if task.check == "exec":
            code.append(n)
            verdicts.append(False)
            continue
        try:
            verdicts.append(bool(_CHECKS[task.check](task, answer.strip())))
        except (ValueError, SyntaxError, AttributeError, IndexError, RecursionError):
            verdicts.append(False)
    for n, right in zip(code, _run_code([(tasks[n], answers[n]) for n in code]), strict=True):
        verdicts[n] = right
    return verdicts


@dataclass(frozen=True)
class Paired:
    """Two models on the same questions; `p`: of the sign test that they are equally good."""

    lost: int  # right before, wrong now
    won: int
    p: float


def compare(before: Sequence[bool], now: Sequence[bool]) -> Paired:
    """The exact two-sided sign test on the questions where the verdicts differ (McNemar 1947)."""
    lost = sum(b and not n for b, n in zip(before, now, strict=True))
    won = sum(n and not b for b, n in zip(before, now, strict=True))
    flips = lost + won
    tail = sum(math.comb(flips, k) for k in range(min(lost, won) + 1)) / 2**flips
    return Paired(lost, won, min(1.0, 2 * tail))


def _whole(word: str, text: str) -> bool:
    return re.search(r"(?<!\w)" + re.escape(word) + r"(?!\w)", text) is not None


def _number(task: Task, answer: str) -> bool:
    found = re.findall(r"-?\d+", answer)
    return bool(found) and int(found[-1]) == task.expect


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

_RUNNER = r"""
import ast, json, os, resource, sys
NAMES = "len sum max min range abs sorted list str int float set dict tuple enumerate zip reversed".split()
def run(source, name, tests):
    tree = ast.parse(source)
    for node in ast.walk(tree):
        private = isinstance(node, ast.Attribute) and node.attr.startswith("_")
        if private or isinstance(node, (ast.Import, ast.ImportFrom, ast.While)):
            raise ValueError
    allowed = {n: __builtins__.__dict__[n] for n in NAMES} | {"print": lambda *a, **k: None}
    space = {"__builtins__": allowed}
    exec(compile(tree, "<answer>", "exec"), space)
    return [space[name](*test) for test in tests]
def judge(job):
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
    resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
    try:
        right = run(job["source"], job["name"], job["tests"]) == run(job["ref"], job["name"], job["tests"])
    except BaseException:
        right = False
    os._exit(0 if right else 1)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        judge(json.loads(line))
    print("right" if os.waitpid(child, 0)[1] == 0 else "wrong", flush=True)
"""
"""Runs in a process of its own, each answer in a child: a handful of built-ins, no imports, no private attributes,
512 MB, and one second of processor time."""


def _run_code(jobs: Sequence[tuple[Task, str]]) -> list[bool]:
    """Whether each answer's function gives what the reference function gives."""
    lines, runnable = [], []
    for n, (task, answer) in enumerate(jobs):
        body: str | None = answer
        if not task.raw:
            block = re.search(r"```python\n(.*?)```", answer, re.DOTALL)
            body = block[1] if block else None
        if body is not None:
            e = task.expect
            source = e["pre"] + body + e["post"]
            lines.append(json.dumps({"source": source, "name": e["name"], "tests": e["tests"], "ref": e["ref"]}))
            runnable.append(n)
    verdicts = [False] * len(jobs)
    done = subprocess.run(
        [sys.executable, "-I", "-c", _RUNNER], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    for n, verdict in zip(runnable, done.stdout.split(), strict=False):
        verdicts[n] = verdict == "right"
    return verdicts
