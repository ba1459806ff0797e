"""`edge-lfm ask --doc FILE... QUESTION`: an answer from documents, with citations."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_lfm.api import Completion
from edge_lfm.cli.arguments import (
    open_model,
    print_json,
    sampling_of,
    show,
)
from edge_lfm.cli.in_order import in_order, read_lines
from edge_lfm.cli.run import read_prompt
from edge_lfm.cli.text_files import read_text
from edge_lfm.errors import UsageError


def run(args: argparse.Namespace) -> None:
    if args.questions is not None and args.question is not None:
        raise UsageError("there are a question and --questions", hint="give one of them")
    documents = read_documents(args.doc)
    options: dict[str, Any] = {
        "documents": documents,
        "cite": not args.no_cite,
        "trim_documents": args.trim,
        "max_tokens": args.max_tokens,
        **sampling_of(args),
    }
    if args.questions is not None:
        _answer_all(args, options)
        return
    question = read_prompt(args.question)
    with open_model(args.model, args) as model:
        generation = model.stream(question, **options)
        show(generation, quiet=args.json, paging=model.paging)
        answer = generation.result()
    if args.json:
        print_json(_answer_json(answer))
        return
    print(flush=True)
    if answer.trimmed_documents:
        print(f"cut to fit: {', '.join(answer.trimmed_documents)}", file=sys.stderr)
    for citation in dict.fromkeys((c.id, c.title) for c in answer.citations):
        print(f"[{citation[0]}] {citation[1]}", file=sys.stderr)


def _answer_all(args: argparse.Namespace, options: dict[str, Any]) -> None:
    """A line of JSON for each question, in their order. The documents are read once, for the first of them."""
    questions = read_lines(args.questions)
    with open_model(args.model, args) as model:

        def answer(question: str) -> dict[str, Any]:
            return {"question": question} | _answer_json(model.generate(question, **options))

        if (first := next(questions, None)) is not None:
            print(json.dumps(answer(first), ensure_ascii=False), flush=True)
        for found in in_order(questions, answer, model.parallel):
            print(json.dumps(found, ensure_ascii=False), flush=True)


def _answer_json(answer: Completion) -> dict[str, Any]:
    citations = [asdict(citation) for citation in answer.citations]
    trimmed = list(answer.trimmed_documents)
    return {"text": answer.text, "citations": citations, "trimmed_documents": trimmed, "usage": answer.usage}


def read_documents(names: list[str]) -> list[dict[str, str]]:
    """Documents from files; a file's stem is its id, numbered where two are alike.

    Raises:
        UsageError: one cannot be read, or is no text.
    """
    documents: list[dict[str, str]] = []
    for name in names:
        text = read_text(Path(name))
        stem = re.sub(r"[^\w.:/-]", "_", Path(name).stem)[:60] or "document"
        taken = {d["id"] for d in documents}
        number = next(i for i in (stem, *(f"{stem}-{n}" for n in range(2, len(names) + 2))) if i not in taken)
        documents.append({"id": number, "title": name, "text": text.strip()})
    return documents
