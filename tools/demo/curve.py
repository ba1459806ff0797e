"""The learning curve of a training run, from its log: a table.

PYTHONPATH=tools python -m demo.curve RUN/log.txt
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

AT = (0.5, 1, 2, 4, 6, 10, 15, 20, 25, 30, 35, 40)
"""Millions of tokens."""
_LINE = re.compile(
    r"(?P<tokens>[\d.]+)M tokens, \d+ s, rate (?P<rate>[\d.]+), answers (?P<answers>[\d.]+), "
    r"prose (?P<prose>[\d.]+), prompts (?P<prompts>[\d.]+)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    args = parser.parse_args()
    records = [m.groupdict() for m in _LINE.finditer(args.log.read_text(encoding="utf-8"))]
    rows = [next((f for f in records if float(f["tokens"]) >= at), None) for at in AT] + records[-1:]
    print("| million tokens | rate | loss of answers | of other texts | of prompts |\n|---|---|---|---|---|")
    for row in filter(None, rows):
        print(f"| {row['tokens']} | {row['rate']} | {row['answers']} | {row['prose']} | {row['prompts']} |")


if __name__ == "__main__":
    main()
