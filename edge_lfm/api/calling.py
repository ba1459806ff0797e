"""From the tools of a request to what the engine needs of them: a grammar, the parameters' names, and checks.

A tool whose schema the grammar cannot hold exactly does not spoil the others: its calls are bound as far as that goes,
and checked when they are there. One that is strict, or cannot be checked either, is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_lfm.engine.answering import Engine
from edge_lfm.engine.grammar import Compiled, Grammar, GrammarCompiler
from edge_lfm.errors import GrammarError, UsageError
from edge_lfm.text.dialects import Dialect
from edge_lfm.text.tool_binding import BoundTool, bind_tool
from edge_lfm.text.tools import Tool, chosen_tool


@dataclass(frozen=True)
class Calling:
    """grammar: of calls; None: they are read only. parameters: the names of each tool's. checks: of their arguments."""

    parameters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    grammar: Compiled | None = None
    must_call: bool = False
    checks: Mapping[str, Callable[[Any], str | None]] = field(default_factory=dict)


def bind_calls(
    engine: Engine, dialect: Dialect, tools: Sequence[Tool], choice: Any, parallel: bool, untrusted: bool
) -> Calling:
    """What the engine needs to make and to read calls.

    Args:
        choice: auto, none, required, or the name of a tool.
        untrusted: whether the schemas come from one who may mean harm.

    Raises:
        GrammarError: a tool's schema is none, or can be neither bound nor checked; it names the tool.
        UsageError: the choice names no tool, or calls are impossible.
    """
    tools = [] if choice == "none" else tools
    chosen = chosen_tool(choice, tools)
    must = choice not in (None, "auto", "none")
    end = engine.tokenizer.special_id(dialect.call_end) if engine.tokenizer is not None else None
    grammars = engine.grammars
    if not tools or grammars is None or end is None or not (grammars.available or must):
        if must:
            raise UsageError("tool_choice needs tools, and a model that knows calls", hint="give tools")
        return Calling({tool.name: list(tool.schema.get("properties") or ()) for tool in tools})
    compiler = _Compiler(grammars, dialect, end, parallel, untrusted)
    bound, grammar = compiler.compile([bind_tool(tool) for tool in ([chosen] if chosen is not None else tools)])
    names = {tool.name: list(tool.schema.get("properties") or ()) for tool in tools}
    names |= {tool.name: list(dict.fromkeys(name for form in tool.forms for name in form.given)) for tool in bound}
    checks = {tool.name: tool.check(tried=not untrusted) for tool in bound if tool.lost}
    return Calling(names, grammar, must, checks)


@dataclass(frozen=True)
class _Compiler:
    grammars: GrammarCompiler
    dialect: Dialect
    end_id: int
    parallel: bool
    untrusted: bool

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
        grammar = Grammar("lark", self.dialect.grammar(tools, self.end_id, self.parallel))
        return self.grammars.compile(grammar, apart=self.untrusted)
