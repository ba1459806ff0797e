"""The texts on which models are compared (`benchmarks/quality.py`): those that training holds out, and wikitext-2.

PYTHONPATH=tools python -m demo.texts --corpora DIR --wikitext wiki.test.raw -o DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

from demo import corpora


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--wikitext", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    held = corpora.load(args.corpora, held_out=True)
    texts = {"wikitext2": args.wikitext.read_text(encoding="utf-8"), "novel": held["novel"][0]}
    texts |= {"code": "\n\n".join(held["code"]), "tiny_stories": "\n\n".join(held["tiny"])}
    texts |= dict(zip(("french", "german", "spanish"), held["multi"], strict=True))
    args.output.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (args.output / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
