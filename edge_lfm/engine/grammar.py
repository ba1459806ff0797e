"""Grammars that an answer must follow: JSON schemas, regular expressions, Lark grammars, choices. Through llguidance.

A grammar is compiled once, before anything is generated: one that does not compile is an error, never an answer without
it. Tables of the tokenizer are built when the first grammar comes. Needs the extra `grammar`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.apart import run_apart
from edge_lfm.engine.trials import grammar_source
from edge_lfm.errors import GrammarError, MissingExtraError
from edge_lfm.text.schemas.json_style import JSON_STYLE
from edge_lfm.text.schemas.rewriting import bind

Kind = Literal["json", "regex", "lark"]
MAX_TEXT, MAX_KEPT = 1_000_000, 64
MAX_KEPT_TEXT = 2_000_000
"""Characters of all grammars kept: compiled, an enumeration takes 24 bytes for each, which makes 48 MB."""
MAX_STEP_ITEMS = 5_000
"""What the parser may note for one token. A grammar that reads a text in ever more ways takes 70 ms a token at
llguidance's own limit of 50,000, and every answer waits; 1,900 choices and 300 optional properties need less than
2,000."""
MAX_FORCED = 64
"""Tokens that are skipped ahead in one step."""


@dataclass(frozen=True)
class Grammar:
    """What an answer must be; checked and compiled by `GrammarCompiler.compile`."""

    kind: Kind
    source: str


def json_grammar(schema: Mapping[str, Any] | bool) -> Grammar:
    """JSON that a schema accepts.

    Raises:
        GrammarError: it is no schema, or has a keyword that cannot be bound.
    """
    bound = bind(schema)
    if bound.lost:
        keywords = ", ".join(dict.fromkeys(loss.keyword for loss in bound.lost))
        raise GrammarError(f"the JSON schema cannot be bound: {keywords:.200}", hint="see docs/abilities.md, Grammars")
    return Grammar("json", json.dumps(bound.whole))


def any_json() -> Grammar:
    """Any JSON object."""
    return json_grammar({"type": "object"})


def choice_grammar(choices: Sequence[str]) -> Grammar:
    """One of several texts.

    Raises:
        GrammarError: there is none, or one is no text.
    """
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise GrammarError("choices must be texts", hint="give at least one, none of them empty")
    return Grammar("lark", "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices))


def grammar_of(schema: Any, regex: str | None, lark: str | None, choices: Sequence[str] | None) -> Grammar | None:
    """The grammar that one of these asks for; None if none does.

    Args:
        schema: a JSON schema, True for any object, or a class that has `model_json_schema`, as Pydantic's have.

    Raises:
        GrammarError: more than one is given, or one is not what it must be.
    """
    given = [
        name
        for name, value in (("schema", schema), ("regex", regex), ("lark", lark), ("choices", choices))
        if value is not None
    ]
    if len(given) > 1:
        raise GrammarError(f"{' and '.join(given)} exclude each other", hint="give one of them")
    if schema is not None:
        if hasattr(schema, "model_json_schema"):
            schema = schema.model_json_schema()
        if not isinstance(schema, Mapping | bool):
            raise GrammarError("the schema is not a JSON schema", hint='give an object, like {"type": "object"}')
        return any_json() if schema is True else json_grammar(schema)
    if choices is not None:
        return choice_grammar(choices)
    source = regex if regex is not None else lark
    if source is not None and not isinstance(source, str):
        raise GrammarError(f"{given[0]} must be a text", hint="give a string")
    return None if source is None else Grammar("regex" if regex is not None else "lark", source)


@dataclass(frozen=True)
class Compiled:
    """A grammar that was compiled, for any number of answers."""

    matcher: Any
    vocab: int

    def start(self) -> GrammarConstraint:
        """A fresh constraint for one answer."""
        return GrammarConstraint(self.matcher.deep_copy(), self.vocab)


class GrammarCompiler:
    """Compiles grammars for one model's tokenizer, and keeps the last few. For any threads.

    tokenizer_json: gives the text of the `tokenizer.json` that was loaded; vocab: rows of logits that may be drawn;
    stop_ids: tokens that end an answer.
    """

    def __init__(self, tokenizer_json: Callable[[], str], vocab: int, stop_ids: Sequence[int]) -> None:
        self._tokenizer_json, self._vocab, self._stop_ids = tokenizer_json, vocab, list(stop_ids)
        self._tables: Any = None
        self._kept: OrderedDict[Grammar, Compiled] = OrderedDict()
        self._lock = threading.Lock()
        """Held for moments only, but for the tables once: whoever compiles holds nobody up."""

    @property
    def available(self) -> bool:
        """Whether llguidance is installed."""
        return importlib.util.find_spec("llguidance") is not None

    def compile(self, grammar: Grammar, apart: bool = False) -> Compiled:
        """Check a grammar, and keep it for the next who asks.

        Args:
            apart: try it in a process of its own first, for it comes from a stranger.

        Raises:
            GrammarError: it does not compile, or nothing can satisfy it.
            MissingExtraError: llguidance is not installed.
        """
        with self._lock:
            if grammar in self._kept:
                self._kept.move_to_end(grammar)
                return self._kept[grammar]
        compiled = Compiled(self._matcher(grammar, apart), self._vocab)
        with self._lock:
            self._kept[grammar] = compiled
            while len(self._kept) > MAX_KEPT or sum(len(g.source) for g in self._kept) > MAX_KEPT_TEXT:
                self._kept.popitem(last=False)
        return compiled

    def start(self, grammar: Grammar) -> GrammarConstraint:
        """A fresh constraint for one answer."""
        return self.compile(grammar).start()

    def _matcher(self, grammar: Grammar, apart: bool) -> Any:
        try:
            import llguidance
        except ImportError:
            raise MissingExtraError("grammars need llguidance", extra="grammar") from None
        if len(grammar.source) > MAX_TEXT:
            raise GrammarError(
                f"the grammar has {len(grammar.source)} characters", hint=f"at most {MAX_TEXT} are taken"
            )
        try:
            problem = run_apart("grammar", grammar.kind, grammar.source, JSON_STYLE) if apart else ""
            source = "" if problem else grammar_source(grammar.kind, grammar.source, JSON_STYLE)
        except (ValueError, GrammarError) as error:
            raise _refusal(grammar, str(error)) from None
        if problem:
            raise _refusal(grammar, problem)
        with self._lock:
            if self._tables is None:
                text = self._tokenizer_json()
                self._tables = llguidance.LLTokenizer(text, n_vocab=self._vocab, eos_token=self._stop_ids)
        limits = llguidance.LLParserLimits(step_max_items=MAX_STEP_ITEMS, verbose_errors=False)
        matcher = llguidance.LLMatcher(self._tables, source, log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()  # some that compile can never begin
        if matcher.is_error():
            raise _refusal(grammar, matcher.get_error())
        return matcher


class GrammarConstraint:
    """A grammar on its way through one answer; a `constraints.Constraint`."""

    def __init__(self, matcher: Any, vocab: int) -> None:
        self._matcher, self._vocab = matcher, vocab

    @property
    def ended(self) -> bool:
        """Whether the answer is complete, and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next [vocab].

        Raises:
            GrammarError: none may.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise self._stuck()
        return np.unpackbits(bits, count=self._vocab, bitorder="little").view(np.bool_)

    def accept(self, token: int) -> None:
        """Note that a token was taken."""
        if not self.ended and not self._matcher.consume_token(token):
            raise self._stuck()

    def forced(self, limit: int) -> list[int]:
        """The next tokens, as far as the grammar leaves no choice; they are taken."""
        tokens = [int(i) for i in self._matcher.compute_ff_tokens()[: min(limit, MAX_FORCED)]]
        if tokens:
            self._matcher.consume_tokens(tokens)
        return tokens

    def _stuck(self) -> GrammarError:
        return GrammarError(f"the grammar cannot go on: {_first(self._matcher.get_error())}", hint="simplify it")


def _refusal(grammar: Grammar, why: str) -> GrammarError:
    names = {"json": "JSON schema", "regex": "regular expression", "lark": "grammar"}
    return GrammarError(f"the {names[grammar.kind]} cannot be used: {_first(why)}", hint="see docs/abilities.md")


def _first(why: str) -> str:
    """The telling part of one of llguidance's messages, on one line."""
    return " ".join(re.sub("<(state|non-verbose/)>.*", "", why, flags=re.DOTALL).split())[:300]
