"""Make the documents' tables anew, by the commands that stand beside them.

    WORK=build/tables TEXTS=build/texts CALIBRATION=groups_merged.txt python tools/remake_tables.py docs/quality.md
    WORK=build/figures python tools/remake_tables.py --stamp --only batching docs/performance.md

A table that is made by machine lies between two comments, `<!-- made by: COMMAND -->` and `<!-- end -->`; COMMAND runs
in the repository's root and prints Markdown. It may read $WORK (a folder, empty at first), $TEXTS (of `python -m
demo.texts`), $CALIBRATION (a text) and $TRACE (a recorded routing). A command that fails leaves its document as it was.
`--stamp` writes under each table its command, the commit, the day and the processor, without which a speed means
nothing.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"<!-- made by: (?P<command>.+?) -->\n(?P<table>.*?)<!-- end -->", re.DOTALL)


def commands(text: str) -> list[str]:
    return [block["command"] for block in _BLOCK.finditer(text)]


def stamp(command: str) -> str:
    """The line under a table of speeds."""
    git = ["git", "log", "-1", "--format=%h"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip()
    return f"\n\n`{command}`, commit {commit}, {date.today()}, {processor()}."


def processor() -> str:
    """Of /proc/cpuinfo: the name, and what tells apart those that hide it."""
    lines = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines())
    values = {pair[0].strip(): pair[-1].strip() for pair in lines}
    names = (
        values.get("model name", "processor"),
        f"family {values.get('cpu family')}",
        f"model {values.get('model')}",
    )
    return ", ".join(names)


def remade(text: str, only: str = "", stamped: bool = False) -> str:
    """The text with every table whose command has `only` in it as that command prints it now.

    Raises:
        SystemExit: a command failed.
    """

    def run(block: re.Match[str]) -> str:
        if only not in block["command"]:
            return block[0]
        print(f"  {block['command']} ...", file=sys.stderr, flush=True)
        settings = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command: dict[str, Any] = {"args": block["command"], "shell": True, "cwd": ROOT, "env": settings}
        done = subprocess.run(**command, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode or not done.stdout.strip():
            raise SystemExit(f"exit code {done.returncode}: {block['command']}")
        under = stamp(block["command"]) if stamped else ""
        return f"<!-- made by: {block['command']} -->\n{done.stdout.strip()}{under}\n<!-- end -->"

    return _BLOCK.sub(run, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path, nargs="+")
    parser.add_argument("--only", default="", metavar="TEXT", help="tables whose command has this in it")
    parser.add_argument("--stamp", action="store_true", help="tell command, commit, day and processor under each")
    args = parser.parse_args()
    for document in args.documents:
        print(document, file=sys.stderr, flush=True)
        text = document.read_text(encoding="utf-8")
        if not commands(text):
            raise SystemExit(f"{document} has no table that is made by machine")
        document.write_text(remade(text, args.only, args.stamp), encoding="utf-8")


if __name__ == "__main__":
    main()
