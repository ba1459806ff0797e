"""`edge-lfm eval`: how far a packed model is from its reference, on text and on tasks."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edge_lfm.api import Model
from edge_lfm.cli.arguments import print_json, progress_bar
from edge_lfm.cli.eval_report import describe, write_report
from edge_lfm.cli.in_order import in_order
from edge_lfm.cli.parsers.eval import DEMO_TASKS
from edge_lfm.cli.text_files import read_text
from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import OutputError, UsageError
from edge_lfm.formats.open_checkpoint import open_checkpoint
from edge_lfm.formats.strict import read_json
from edge_lfm.kernels.spec.ref import I64
from edge_lfm.measure.evaluation import (
    PackedScorer,
    StreamedScorer,
    divergence_step,
    measure_divergence,
    measure_perplexity,
)
from edge_lfm.measure.sandbox import check_sandbox
from edge_lfm.measure.tasks import Task, compare, judge, read_tasks
from edge_lfm.model.checkpoint_weights import CheckpointWeights
from edge_lfm.model.packed_model import is_packed
from edge_lfm.model.plan import plan_tensors
from edge_lfm.model.streamed import StreamedModel
from edge_lfm.quantize.card import CARD, model_card
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.text.windows import windows_of

GREEDY_PROMPTS, GREEDY_PROMPT_TOKENS, GREEDY_TOKENS = 50, 32, 64


def run(args: argparse.Namespace) -> None:
    if not args.text and args.tasks is None:
        raise UsageError("nothing to evaluate on", hint="give --text FILE, --tasks, or both")
    if args.window < 4 or args.windows < 1:
        raise UsageError("--window and --windows", hint="give windows of at least 4 tokens, and at least one")
    tasks = _tasks_of(args.tasks, args.run_code) if args.tasks is not None else None
    result: dict[str, Any] = {"model": str(args.model or "demo"), "against": str(args.against or ""), "texts": {}}
    with Model.load(args.model, threads=args.threads) as model, ExitStack() as stack:
        reference = stack.enter_context(_open_reference(args.against, args.threads)) if args.against else None
        result["model"] = str(model.folder)
        for path in args.text:
            windows = windows_of(model.folder, read_text(path), args.window, args.windows)
            result["texts"][path.name] = _evaluate(model, reference, windows, path.name)
        if tasks is not None:
            result["tasks"] = _run_tasks(model, reference, tasks, args.run_code)
        if args.report:
            write_report(args.report, result, model.folder)
        if args.card:
            _write_card(model.folder, result)
    if args.json:
        print_json(result)
    else:
        print(describe(result))


def _write_card(folder: Path, result: dict[str, Any]) -> None:
    """The model's card again, with what was measured."""
    report = read_json(folder / "quantization_report.json")
    try:
        (folder / CARD).write_text(model_card(report, result), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder / CARD} cannot be written: {error.strerror}") from None


@contextmanager
def _open_reference(folder: Path, threads: int | None) -> Iterator[Model | StreamedScorer]:
    """A packed model, or a checkpoint as a stream of layers."""
    if folder.is_dir() and is_packed(folder):
        with Model.load(folder, threads=threads) as model:
            yield model
        return
    with open_checkpoint(folder) as checkpoint:
        shape = checkpoint.describe()
        tensors = plan_tensors(shape, find_recipe("float32").schemes)
        yield StreamedScorer(StreamedModel(shape, CheckpointWeights(checkpoint, shape, tensors)), shape.vocab)


def _evaluate(
    model: Model, reference: Model | StreamedScorer | None, windows: Sequence[I64], name: str
) -> dict[str, Any]:
    scorer = PackedScorer(model.backend, model.vocab)
    advance = progress_bar(name, "window")(len(windows))
    if reference is None:
        return asdict(measure_perplexity(scorer, windows, advance))
    if isinstance(reference, StreamedScorer):
        layers = progress_bar(f"{name}: reference", "layer")(len(model.shape.layers))
        reference.vocab = model.vocab
        reference.prepare(windows, layers)
        return asdict(measure_divergence(scorer, reference, windows, advance))
    other = PackedScorer(reference.backend, model.vocab)
    divergence = asdict(measure_divergence(scorer, other, windows, advance))
    prompts = [window[:GREEDY_PROMPT_TOKENS] for window in windows[:GREEDY_PROMPTS]]
    steps = divergence_step(scorer, other, prompts, GREEDY_TOKENS)
    same = float(np.mean([step == GREEDY_TOKENS for step in steps]))
    return divergence | {
        "greedy_agreed_median": float(np.median(steps)),
        "greedy_same": same,
        "greedy_tokens": GREEDY_TOKENS,
    }


def _tasks_of(asked: Path, run_code: bool) -> list[Task]:
    """The samples of a file; what cannot be judged is told before the model answers for minutes."""
    path = demo_checkpoint() / "tasks.jsonl" if asked is DEMO_TASKS else asked
    tasks = read_tasks(path)
    if run_code:
        check_sandbox()
    elif all(task.check == "exec" for task in tasks):
        raise UsageError(f"{path} holds code tasks only", hint="add --run-code to run what the model writes, confined")
    return tasks


def _run_tasks(
    model: Model, reference: Model | StreamedScorer | None, tasks: Sequence[Task], run_code: bool
) -> dict[str, Any]:
    verdicts = _answer_all(model, tasks, "tasks", run_code)
    result: dict[str, Any] = _accuracy(tasks, verdicts) | {"right": verdicts, "not_judged": verdicts.count(None)}
    if isinstance(reference, Model):
        before = _answer_all(reference, tasks, "tasks: reference", run_code)
        theirs = _accuracy(tasks, before)
        result["reference_accuracy"] = theirs["accuracy"]
        result["reference_mean_of_tasks"] = theirs["mean_of_tasks"]
        result["paired"] = asdict(compare(before, verdicts))
        for name, entry in result["by_task"].items():
            entry["reference"] = theirs["by_task"][name]["accuracy"]
    return result


def _answer_all(model: Model, tasks: Sequence[Task], label: str, run_code: bool) -> list[bool | None]:
    """Greedy answers, special tokens kept, judged."""
    if model.tokenizer is None:
        raise UsageError(f"{model.folder} has no tokenizer.json", hint="tasks are text; copy the tokenizer there")
    tokenizer = model.tokenizer

    def answer(task: Task) -> str:
        prompt = tokenizer.encode(task.prompt, special=True)
        done = model.generate(prompt, max_tokens=task.max_tokens, temperature=0.0, repeat_penalty=1.0)
        return tokenizer.decode([i for i in done.token_ids if i not in model.stop_ids], special=True)

    advance, answers = progress_bar(label, "task")(len(tasks)), []
    for text in in_order(tasks, answer, model.parallel):
        answers.append(text)
        advance(1)
    return judge(tasks, answers, run_code)


def _accuracy(tasks: Sequence[Task], verdicts: Sequence[bool | None]) -> dict[str, Any]:
    """Of the samples that were judged: together, by task, and the mean of the tasks."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for task, verdict in zip(tasks, verdicts, strict=True):
        if verdict is not None:
            groups[task.task].append(verdict)
    judged = [verdict for group in groups.values() for verdict in group]
    by_task = {name: {"n": len(group), "accuracy": float(np.mean(group))} for name, group in groups.items()}
    return {
        "accuracy": float(np.mean(judged)),
        "samples": len(judged),
        "by_task": by_task,
        "mean_of_tasks": float(np.mean([entry["accuracy"] for entry in by_task.values()])),
    }
