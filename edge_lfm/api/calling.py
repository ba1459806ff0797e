"""From the tools of a request to what the engine needs of them: a grammar, the parameters' names, and checks.

A tool whose schema the grammar cannot hold exactly does not spoil the others: its calls are bound as far as that goes,
and checked when they are there. One that is strict, or cannot be checked either, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_lfm.engine.answering import Engine
from edge_lfm.engine.grammar import Compiled, Grammar, GrammarCompiler
from edge_lfm.errors import GrammarError, UsageError
from edge_lfm.text.dialects import Dialect, Parameters
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_binding import BoundTool, bind_tool, plain_parameters
from edge_lfm.text.tool_calls import answer_grammar, calls_grammar, message_grammar
from edge_lfm.text.tools import Tool, chosen_tool


@dataclass(frozen=True)
class Calling:
    """grammar: of calls, or of messages where an answer is such; None: calls are read only. parameters: those of each
    tool. checks: of their arguments."""

    parameters: Parameters = field(default_factory=dict)
    grammar: Compiled | None = None
    must_call: bool = False
    checks: Mapping[str, Callable[[Any], str | None]] = field(default_factory=dict)


def bind_calls(
    engine: Engine,
    dialect: Dialect,
    spelled: Collection[str],
    tools: Sequence[Tool],
    choice: Any,
    parallel: bool,
    untrusted: bool,
    formed: bool,
) -> Calling:
    """What the engine needs to make and to read calls.

    Args:
        spelled: the dialect's marks that the vocabulary has no tokens for.
        choice: auto, none, required, or the name of a tool.
        untrusted: whether the schemas come from one who may mean harm.
        formed: whether the answer has a form where it is no call.

    Raises:
        GrammarError: a tool's schema is none, or can be neither bound nor checked; it names the tool.
        UsageError: the choice names no tool, or calls are impossible.
    """
    tools = [] if choice == "none" else tools
    chosen = chosen_tool(choice, tools)
    must = choice not in (None, "auto", "none")
    tokenizer, grammars = engine.tokenizer, engine.grammars
    parameters = {tool.name: plain_parameters(tool) for tool in tools}
    marks = (dialect.call_start, dialect.call_end)
    marked = all(mark in spelled or (tokenizer and tokenizer.special_id(mark) is not None) for mark in marks)
    needed = bool(tools) or (formed and dialect.channels is not None)
    if not needed or tokenizer is None or grammars is None or not marked or not (grammars.available or must):
        if must:
            hint = "give tools"
            raise UsageError("tool_choice needs tools, and a model that knows calls", hint=hint, param="tool_choice")
        return Calling(parameters)
    compiler = _Compiler(grammars, tokenizer, dialect, dialect.call_start in spelled, must, parallel, untrusted, formed)
    bindable = [bind_tool(tool) for tool in ([chosen] if chosen is not None else tools)]
    bound, grammar = compiler.compile(bindable)
    parameters |= {tool.name: tool.parameters for tool in bindable}
    checks = {tool.name: tool.check(tried=not untrusted) for tool in bound if tool.lost}
    return Calling(parameters, grammar, must, checks)


@dataclass(frozen=True)
class _Compiler:
    grammars: GrammarCompiler
    tokenizer: Tokenizer
    dialect: Dialect
    spelled: bool
    must: bool
    parallel: bool
    untrusted: bool
    formed: bool

    def compile(self, tools: Sequence[BoundTool]) -> tuple[list[BoundTool], Compiled]:
        """The grammar of all tools; those whose schemas the engine refuses with any JSON in their place."""
        try:
            return list(tools), self._grammar(tools)
        except GrammarError as error:
            whole = error
        tried = [self._tried(tool) for tool in tools]
        if all(one is other for one, other in zip(tried, tools, strict=True)):
            raise whole
        return tried, self._grammar(tried)

    def _tried(self, tool: BoundTool) -> BoundTool:
        try:
            self._grammar([tool])
        except GrammarError as error:
            loose = tool.loosened(error.message)
            loose.check(tried=not self.untrusted)
            return loose
        return tool

    def _grammar(self, tools: Sequence[BoundTool]) -> Compiled:
        form = (self.dialect, tools, self.tokenizer, self.parallel)
        if self.dialect.channels is not None:
            source = message_grammar(self.dialect.channels, tools, self.tokenizer, self.must, self.formed)
        else:
            source = answer_grammar(*form, self.must) if self.spelled else calls_grammar(*form)
        return self.grammars.compile(Grammar("lark", source), apart=self.untrusted)
