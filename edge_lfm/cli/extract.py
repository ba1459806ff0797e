"""`edge-lfm extract --schema FILE`: texts in, one a line; valid JSON out, one object a line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from edge_lfm.api import Model
from edge_lfm.cli.arguments import (
    open_model,
    sampling_of,
)
from edge_lfm.cli.in_order import in_order, read_lines
from edge_lfm.errors import CheckError, ModelFileError, UsageError
from edge_lfm.formats.strict import read_json


def run(args: argparse.Namespace) -> None:
    try:
        schema = read_json(Path(args.schema))
    except ModelFileError as error:
        raise UsageError(error.message, hint="give a file with a JSON schema") from None
    ask = args.prompt or default_prompt(schema)
    options = {"max_tokens": args.max_tokens, **sampling_of(args)}
    with open_model(args.model, args) as model:

        def work(text: str) -> str:
            return extract(model, f"Text: {text}\n{ask}", schema, args.soft, options)

        for answer in in_order(read_lines("-"), work, model.parallel):
            print(answer, flush=True)


def extract(model: Model, prompt: str, schema: dict[str, Any], soft: int | None, options: dict[str, Any]) -> str:
    """The JSON of one text, on one line.

    Raises:
        CheckError: the answer was cut off, or no answer passed.
    """
    if soft is not None:
        from edge_lfm.api import json_check

        answer = model.ask_until(prompt, json_check(schema), soft, **options)
    else:
        answer = model.generate(prompt, schema=schema, **options)
        if answer.finish_reason == "length":
            raise CheckError("an answer was cut off", hint="allow more tokens (-n), or limit lengths in the schema")
    return one_line(answer.text)


def one_line(text: str) -> str:
    """JSON without its line breaks, which no string of it can hold; numbers stay as the model wrote them."""
    return " ".join(line.strip(" \t\r") for line in text.strip().split("\n"))


def default_prompt(schema: dict[str, Any]) -> str:
    """`Return JSON with name, age and city.`"""
    properties = schema.get("properties")
    keys = list(properties) if isinstance(properties, dict) else []
    listed = " and ".join(part for part in (", ".join(keys[:-1]), *keys[-1:]) if part)
    return f"Return JSON with {listed}." if listed else "Return JSON."
