"""docs/cli.md from the parsers: python tools/cli_reference.py > docs/cli.md. A test keeps them equal."""

from __future__ import annotations

import argparse

from edge_lfm.cli.parsing import VERBS, make_parser

HEAD = """# The command line

Made from the parsers by `python tools/cli_reference.py > docs/cli.md`. `edge-lfm VERB --help` says the same.
"""

TAIL = """## Environment

| variable | meaning |
|---|---|
| `EDGE_LFM_ISA` | the tier: `amx`, `avx512vnni`, `avxvnni`, `avx2`, `ssse3`, `portable`, `i8mm`, `dotprod`, `neon` |
| `EDGE_LFM_KERNELS` | a folder or shared object of `edge-lfm compile`, to be used instead of compiling |
| `EDGE_LFM_THREADS` | the most threads, instead of the physical cores that the process may use |
| `EDGE_LFM_API_KEY` | the key that `edge-lfm serve` asks clients for |
| `EDGE_LFM_MODELS` | where pulled models are kept (default `~/.local/share/edge-lfm/models`) |
| `EDGE_LFM_CACHE` | where compiled kernels, the demo model and paged experts' use are kept (`~/.cache/edge-lfm`) |
"""


def reference() -> str:
    """The whole document."""
    verbs = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    index = "\n".join(f"| [`{name}`](#{name}) | {text} |" for name, text in VERBS.items())
    sections = [_section(name, parser) for name, parser in verbs.choices.items()]
    return "\n".join([HEAD, "| verb | |", "|---|---|", index, "", *sections, TAIL])


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    rows = [
        _row(action) for action in parser._actions if action.dest != "help" and action.help is not argparse.SUPPRESS
    ]
    example = (parser.epilog or "").removeprefix("example: ")
    return "\n".join([f"## {name}\n", f"{parser.description}\n", f"    {example}\n", "| | |", "|---|---|", *rows, ""])


def _row(action: argparse.Action) -> str:
    names = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
    value = f" `{action.metavar}`" if action.option_strings and action.metavar and action.nargs != 0 else ""
    text = argparse.HelpFormatter("edge-lfm")._expand_help(action) if action.help else ""
    text = " ".join(text.split()).replace("|", "\\|")
    return f"| {names}{value} | {text} |"


if __name__ == "__main__":
    print(reference(), end="")
