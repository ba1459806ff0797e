"""Make the documents' tables anew, by the commands that stand beside them.

    WORK=build/tables TEXTS=build/texts CALIBRATION=groups_merged.txt python tools/remake_tables.py docs/quality.md

A table that is made by machine lies between two comments, `<!-- made by: COMMAND -->` and `<!-- end -->`; COMMAND runs
in the repository's root and prints Markdown. It may read $WORK (a folder, empty at first), $TEXTS (of `python -m
demo.texts`) and $CALIBRATION (a text). A command that fails leaves its document as it was.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"<!-- made by: (?P<command>.+?) -->\n(?P<table>.*?)<!-- end -->", re.DOTALL)


def commands(text: str) -> list[str]:
    return [block["command"] for block in _BLOCK.finditer(text)]


def remade(text: str) -> str:
    """The text with every table as its command prints it now.

    Raises:
        SystemExit: a command failed.
    """

    def run(block: re.Match[str]) -> str:
        print(f"  {block['command']} ...", file=sys.stderr, flush=True)
        settings = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command: dict[str, Any] = {"args": block["command"], "shell": True, "cwd": ROOT, "env": settings}
        done = subprocess.run(**command, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode or not done.stdout.strip():
            raise SystemExit(f"exit code {done.returncode}: {block['command']}")
        return f"<!-- made by: {block['command']} -->\n{done.stdout.strip()}\n<!-- end -->"

    return _BLOCK.sub(run, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=Path, nargs="+")
    args = parser.parse_args()
    for document in args.documents:
        print(document, file=sys.stderr, flush=True)
        text = document.read_text(encoding="utf-8")
        if not commands(text):
            raise SystemExit(f"{document} has no table that is made by machine")
        document.write_text(remade(text), encoding="utf-8")


if __name__ == "__main__":
    main()
