"""`edge-lfm bundle`: all that a board needs, in one folder or tar file; installed there without network or compiler."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_lfm.api import Model
from edge_lfm.cli.arguments import gigabytes, print_json, progress_bar
from edge_lfm.devices.bundle import make_bundle
from edge_lfm.devices.profiles import find_device, profiles
from edge_lfm.devices.targets import find_target
from edge_lfm.errors import UsageError
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.plan import Wishes, plan_memory
from edge_lfm.model.demand import demand_of
from edge_lfm.model.packed_model import PackedModel

_PROMPTS = (
    "What is the capital of France?",
    "Tell me a story about a dog.",
    "Write a Python function that adds two numbers.",
)
_MAX_TOKENS, _NEAR_TIE = 64, 0.3
_CONTEXT = 2048


def run(args: argparse.Namespace) -> None:
    target = find_target(args.target)
    if args.model:
        check_memory(args.model, args.target)
    bundle = make_bundle(
        target,
        args.output,
        args.python,
        args.model,
        demo_answers(),
        lambda line: print(line, file=sys.stderr),
        progress_bar("writing"),
    )
    if args.json:
        print_json(asdict(bundle))
        return
    parts = f"wheels {gigabytes(bundle.wheel_bytes)}, kernels {gigabytes(bundle.kernel_bytes)}"
    print(
        f"{bundle.path}: for {target.name} and Python {bundle.python}; {parts}, model {gigabytes(bundle.model_bytes)}"
    )
    unpack = f"tar -xf {args.output.name} && " if args.output.suffix == ".tar" else ""
    folder = "edge-lfm" if unpack else args.output.name
    print(f"copy it to the board; there: {unpack}sh {folder}/install.sh")


def check_memory(folder: Path, device: str) -> None:
    """Open the model, and compare it with the device if the target is one.

    Raises:
        EdgeLfmError: it is not a packed model, or does not fit into the device's memory.
    """
    with PackedModel(folder) as model:
        shape, demand = model.shape, demand_of(model.shape, list(model.tensors.values()))
    if device.lower().rpartition("-")[0] not in profiles() and device.lower() not in profiles():
        return
    board = find_device(device)
    budget = Budget(board.usable_bytes, stated=True)
    missing = plan_memory(shape, demand, budget, Wishes(context=_CONTEXT, threads=board.cores)).missing_bytes
    if missing:
        raise UsageError(
            f"{folder} does not fit into {board.memory_gb[0]:g} GB of a {board.name}: "
            f"{budget.show(missing)} are missing",
            hint="use a smaller model or a smaller recipe; edge-lfm fit tells what each needs",
        )


def demo_answers() -> list[dict[str, Any]]:
    """What the board's self-test compares with: the demo model's answers here, as far as they are decided.

    Sums are rounded in another order on other processors, so an answer counts up to its first near tie.
    """
    answers = []
    with Model.load() as model:
        for prompt in _PROMPTS:
            answer = model.generate(prompt, temperature=0, max_tokens=_MAX_TOKENS, logprobs=2)
            margins = [token.top[0][1] - token.top[1][1] for token in answer.logprobs]
            decided = next((n for n, margin in enumerate(margins) if margin < _NEAR_TIE), len(answer.token_ids))
            answers.append({"prompt": prompt, "token_ids": list(answer.token_ids[:decided])})
    return answers
