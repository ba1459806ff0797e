"""`edge-lfm ask --doc FILE... QUESTION`: an answer from documents, with citations."""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import asdict
from pathlib import Path

from edge_lfm.cli.arguments import (
    add_model_arguments,
    add_sampling_arguments,
    add_template_argument,
    open_model,
    print_json,
    sampling_of,
    show,
)
from edge_lfm.cli.run import read_prompt
from edge_lfm.errors import UsageError

HELP = "answer a question from documents, with citations"
EXAMPLE = 'edge-lfm ask --doc manual.txt --doc notes.txt "How do I reset it?"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", nargs="?", help="the question (default: standard input)")
    parser.add_argument("--model", help="folder of a packed model (default: the embedded demo model)")
    parser.add_argument("--doc", action="append", required=True, metavar="FILE", help="a text; may be repeated")
    parser.add_argument("--no-cite", action="store_true", help="do not demand citations")
    parser.add_argument("--trim", action="store_true", help="cut documents that do not fit, and say so")
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    add_template_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of the text")


def run(args: argparse.Namespace) -> None:
    question, documents = read_prompt(args.question), read_documents(args.doc)
    options = {"max_tokens": args.max_tokens, **sampling_of(args)}
    with open_model(args.model, args) as model:
        generation = model.stream(
            question, documents=documents, cite=not args.no_cite, trim_documents=args.trim, **options
        )
        show(generation, quiet=args.json, paging=model.paging)
        answer = generation.result()
    if args.json:
        citations = [asdict(citation) for citation in answer.citations]
        trimmed = list(answer.trimmed_documents)
        print_json({"text": answer.text, "citations": citations, "trimmed_documents": trimmed, "usage": answer.usage})
        return
    print(flush=True)
    if answer.trimmed_documents:
        print(f"cut to fit: {', '.join(answer.trimmed_documents)}", file=sys.stderr)
    for citation in dict.fromkeys((c.id, c.title) for c in answer.citations):
        print(f"[{citation[0]}] {citation[1]}", file=sys.stderr)


def read_documents(names: list[str]) -> list[dict[str, str]]:
    """Documents from files; a file's stem is its id, numbered where two are alike.

    Raises:
        UsageError: one cannot be read, or is no UTF-8.
    """
    documents: list[dict[str, str]] = []
    for name in names:
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{name} cannot be read: {error}", hint="give text files in UTF-8") from None
        stem = re.sub(r"[^\w.:/-]", "_", Path(name).stem)[:60] or "document"
        taken = {d["id"] for d in documents}
        number = next(i for i in (stem, *(f"{stem}-{n}" for n in range(2, len(names) + 2))) if i not in taken)
        documents.append({"id": number, "title": name, "text": text.strip()})
    return documents
