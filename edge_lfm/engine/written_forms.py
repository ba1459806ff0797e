"""Grammars of written forms for `lark=`: CSV, XML, Markdown tables.

Types of values: text, integer, number, boolean, date, or a list of choices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edge_lfm.errors import GrammarError

MAX_ROWS = 1000
_NAME = re.compile(r"[A-Za-z_][\w-]{0,63}", re.ASCII)
_VALUES = {
    "integer": "/-?(0|[1-9][0-9]{0,17})/",
    "number": r"/-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,12})?/",
    "boolean": '"true" | "false"',
    "date": "/[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])/",
}


def csv_grammar(columns: Mapping[str, Any], max_rows: int = MAX_ROWS) -> str:
    """Lark of a CSV table (RFC 4180): a header line with these names, then rows of these types.

    Raises:
        GrammarError: there is no column, or a type is unknown.
    """
    text = r'/[^",\n\r]{1,200}/ | /"([^"\r]|""){0,200}"/ | ""'
    cells = [_value(kind, text, lambda choice: _quoted(choice, ',"\n')) for kind in _columns(columns).values()]
    names = ",".join(_quoted(name, ',"\n') for name in columns)
    rules = [f"cell{n}: {cell}" for n, cell in enumerate(cells)]
    row = ' "," '.join(f"cell{n}" for n in range(len(cells)))
    return "\n".join([f'start: {json.dumps(names)} ("\\n" row){{1,{_rows(max_rows)}}} "\\n"?', f"row: {row}", *rules])


def table_grammar(columns: Mapping[str, Any], max_rows: int = MAX_ROWS) -> str:
    """Lark of a Markdown table: a header, the line under it, and rows of these types; no pipe inside a cell.

    Raises:
        GrammarError: there is no column, a type is unknown, or a name or choice has a pipe or a line break.
    """
    text = r"/[^|\n\r ][^|\n\r]{0,200}/"
    cells = [_value(kind, text, lambda choice: _plain(choice, "|\n")) for kind in _columns(columns).values()]
    head = "| " + " | ".join(_plain(name, "|\n") for name in columns) + " |\n" + "|---" * len(cells) + "|"
    rules = [f"cell{n}: {cell}" for n, cell in enumerate(cells)]
    row = '"| " ' + ' " | " '.join(f"cell{n}" for n in range(len(cells))) + ' " |"'
    return "\n".join([f'start: {json.dumps(head)} ("\\n" row){{1,{_rows(max_rows)}}} "\\n"?', f"row: {row}", *rules])


def xml_grammar(tree: Mapping[str, Any]) -> str:
    """Lark of an XML element tree without attributes: {"person": {"name": "text", "age?": "integer", "item*": {...}}}.

    A name may end in ? (may be left out), * (any number) or + (at least one). Text is escaped as XML wants it.

    Raises:
        GrammarError: the tree has not exactly one root, a name is none of XML's, or a type is unknown.
    """
    if not isinstance(tree, Mapping) or len(tree) != 1:
        raise GrammarError("an XML tree has one root", hint='give {"root": {...}}')
    rules: list[str] = []
    (root, inside), *_ = tree.items()
    start = _element(str(root), inside, rules, depth=0)
    return "\n".join([f"start: {start}", *rules, r"TEXT: /([^<&\n\r]|&(amp|lt|gt|quot|apos);){1,200}/"])


def _element(name: str, inside: Any, rules: list[str], depth: int) -> str:
    """Add the rule of one element; how it is named where it stands."""
    mark = name[-1] if name[-1:] in ("?", "*", "+") else ""
    name = name.removesuffix(mark) if mark else name
    if not _NAME.fullmatch(name) or depth > 20:
        raise GrammarError(f"{name!r:.80} cannot be an element", hint="use letters, digits, - and _")
    rule = f"e{len(rules)}"
    rules.append("")
    if isinstance(inside, Mapping):
        parts = " ".join(_element(str(child), kind, rules, depth + 1) for child, kind in inside.items())
    else:
        parts = f"{rule}_value"
        rules.append(f"{parts}: {_value(inside, 'TEXT', _escaped)}")
    rules[int(rule[1:])] = f'{rule}: "<{name}>" {parts} "</{name}>"'
    return f"{rule}{mark}"


def _columns(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(columns, Mapping) or not columns or not all(isinstance(name, str) for name in columns):
        raise GrammarError("there is no column", hint='give {"name": "text", "age": "integer"}')
    return columns


def _rows(limit: int) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_ROWS:
        raise GrammarError(f"max_rows is {limit!r:.20}", hint=f"a whole number of 1..{MAX_ROWS}")
    return limit


def _value(kind: Any, text: str, spell: Any) -> str:
    if isinstance(kind, str) and kind in ("text", *_VALUES):
        return _VALUES.get(kind, text)
    if (
        isinstance(kind, Sequence)
        and not isinstance(kind, str)
        and kind
        and all(isinstance(c, str) and c for c in kind)
    ):
        return " | ".join(json.dumps(spell(choice), ensure_ascii=False) for choice in kind)
    raise GrammarError(f"{kind!r:.60} is no type", hint=f"use text, {', '.join(_VALUES)}, or a list of choices")


def _quoted(text: str, special: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in special) else text


def _plain(text: str, forbidden: str) -> str:
    if any(c in text for c in forbidden):
        raise GrammarError(f"{text!r:.60} cannot stand in a table", hint="leave out | and line breaks")
    return text


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
