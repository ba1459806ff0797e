"""The parser of the command `edge-lfm`: its verbs, and what is said of a command line that is none.

What a verb is told lies in `parsers/`, and is imported when its arguments are needed; what it does, and all that this
needs, is imported when it runs: a help page takes little longer than Python's start.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

VERBS = {
    "run": "answer one prompt",
    "chat": "hold a conversation",
    "serve": "serve a model to OpenAI clients",
    "batch": "answer a file of requests (OpenAI's batch format); resumes",
    "ask": "answer a question from documents, with citations",
    "extract": "turn lines of standard input into JSON that follows a schema",
    "complete": "fill in code or text at a line of a file",
    "pull": "download a model from Hugging Face",
    "list": "list the models that were pulled",
    "rm": "delete a model that was pulled",
    "quantize": "pack a Hugging Face checkpoint, a GGUF file or a drafter into int4 or int8",
    "export": "write a model as a GGUF file for llama.cpp, or as an ONNX graph for onnxruntime",
    "calibrate": "collect activation statistics for quantize --calibration",
    "eval": "measure perplexity, divergence from a reference, and tasks",
    "verify": "read every block and file of a packed model and check its checksum",
    "inspect": "show the architecture and sizes of a packed model, a checkpoint or a GGUF file",
    "synth": "make a model of a published shape with random weights, to measure speed and memory",
    "bench": "measure prefill and decode speed",
    "fit": "tell what a device will do with a model",
    "devices": "list the devices that fit knows, or tell what this machine is",
    "compile": "compile the kernels for a board or a processor into a shared object with a C interface",
    "bundle": "pack kernels, packages and a model for a board",
    "completion": "print what makes a shell complete verbs and options",
    "doctor": "check the installation and this machine",
}
"""The verbs, and what each is for."""


def verb_module(name: str) -> ModuleType:
    """What a verb does: its `run`."""
    return import_module(f"edge_lfm.cli.{name}")


def verb_parser(name: str) -> ModuleType:
    """What a verb is told: its `EXAMPLE`, and its `add_arguments`."""
    return import_module(f"edge_lfm.cli.parsers.{name}")


class Parser(argparse.ArgumentParser):
    """Says of a misspelt option which may be meant, with the usage of its own verb."""

    def error(self, message: str) -> NoReturn:
        wrong = message.partition("unrecognized arguments: ")[2].split()
        options = [option for action in self._actions for option in action.option_strings]
        meant = _meant(wrong[0].partition("=")[0], options) if wrong and wrong[0].startswith("-") else ""
        super().error(message + meant)


class _Version(argparse.Action):
    """Finds the version when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from edge_lfm.version import VERSION

        print(f"edge-lfm {VERSION}")
        parser.exit()


def make_parser(filled: Collection[str] = tuple(VERBS)) -> Parser:
    """The parser of all verbs; of those that are not `filled` only the names are known."""
    parser = Parser(
        prog="edge-lfm",
        description="Run Liquid AI's LFM2 models on machines without a GPU.",
        epilog='example: edge-lfm run "What is the capital of France?"',
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    parser.add_argument("--debug", action="store_true", help="show Python's traceback of an error")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in VERBS.items():
        verb = verbs.add_parser(name, help=text, description=text)
        if name in filled:
            told = verb_parser(name)
            verb.epilog = f"example: {told.EXAMPLE}"
            told.add_arguments(verb)
    return parser


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a command line; a usage error, or none at all, ends the process, as argparse does.

    Of two optional words, argparse spends both on the first group of words (in Python 3.11 and 3.12, not in later
    ones): what it leaves of `run MODEL --ram 4G PROMPT` is the prompt.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = make_parser(() if chosen is None else (chosen,))
    if not words:
        parser.print_help()
        parser.exit()
    if chosen is not None and chosen not in VERBS:
        parser.error(f"there is no verb {chosen!r:.40}{_meant(chosen, VERBS)}")
    args, left = parser.parse_known_args(words)
    verb = _verbs_of(parser)[args.verb]
    if args.verb == "run" and args.prompt is None:
        rest = left[1:] if left[:1] == ["--"] else left
        if len(rest) == 1 and (rest != left or not rest[0].startswith("-")):
            args.prompt, left = rest[0], []
    if left:
        verb.error(f"unrecognized arguments: {' '.join(left)}")
    _take_named(args, verb)
    return args


def _take_named(args: argparse.Namespace, verb: argparse.ArgumentParser) -> None:
    """The model of `-m` in its place; the words of `run` then are the prompt."""
    named = vars(args).pop("named_model", None)
    if named is None:
        return
    if args.verb == "run" and args.prompt is None:
        args.model, args.prompt = None, args.model
    if args.model is not None:
        verb.error("the model is given twice")
    args.model = named


def _verbs_of(parser: argparse.ArgumentParser) -> dict[str, Any]:
    found = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def _meant(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
