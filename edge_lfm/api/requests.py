"""From what an application asks to a checked `Request`: prompts, documents, examples, tools, grammars, limits.

Everything that can be refused is refused here, before anything is computed. Knows the model's text side; computes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any

from edge_lfm.api.checking import check_whole
from edge_lfm.api.fitting import check_overflow, drop_oldest
from edge_lfm.engine.answering import Engine, Request
from edge_lfm.engine.call_grammar import call_grammar, chosen_tool, functions_of
from edge_lfm.engine.generate import check_length
from edge_lfm.engine.grammar import Compiled, Grammar, grammar_of
from edge_lfm.engine.sampling import SamplingOptions
from edge_lfm.errors import ContextOverflowError, TemplateError, UsageError
from edge_lfm.text.answer import CALL_END
from edge_lfm.text.documents import Document, citation_grammar, read_documents, shortened, write_documents
from edge_lfm.text.template import ChatTemplate

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]
Messages = list[Mapping[str, Any]]
Examples = Sequence[tuple[str, str]]
MOST_DRAFTS, MOST_TOP_LOGPROBS = 64, 20
HEADROOM = 4
"""A full context is cleared by a quarter, so that not every turn after it begins anew."""
_MOST_STOPS, _MOST_STOP_TEXT = 16, 500
_DRY_BREAKERS = ("\n", ":", '"', "*")


@dataclass(frozen=True)
class Requests:
    """Makes requests for one model. sampling: the model's own defaults; where: its folder, for messages."""

    engine: Engine
    template: ChatTemplate | None
    sampling: SamplingOptions
    context: int
    where: str

    def encode(
        self, prompt: Prompt, system: str | None = None, raw: bool = False, tools: Tools | None = None
    ) -> list[int]:
        """Token ids of a prompt; see `Model.encode_prompt`."""
        if _are_ids(prompt):
            return [int(i) for i in prompt]  # type: ignore[arg-type]
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise UsageError(f"{self.where} has no tokenizer.json", hint="give token ids, or copy the file there")
        if raw:
            if not isinstance(prompt, str):
                raise UsageError("a raw prompt is a text", hint="give a string")
            written = bool(tokenizer.bos) and prompt.startswith(tokenizer.bos)
            return tokenizer.encode(prompt, bos=not written, special=True)
        if self.template is None:
            raise TemplateError(f"{self.where} has no chat template", hint="use raw text (--raw)")
        return self.template.encode(as_messages(prompt, system), tokenizer, tools=tools)

    def prepare(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        raw: bool = False,
        tools: Tools | None = None,
        tool_choice: Any = "auto",
        documents: Sequence[Any] | None = None,
        cite: bool = False,
        trim_documents: bool = False,
        examples: Examples | None = None,
        overflow: str = "refuse",
        **options: Any,
    ) -> Request:
        """A checked request; arguments as in `Model.generate`."""
        tools = None if tool_choice == "none" else tools
        options |= {"tools": tools, "tool_choice": tool_choice, "markers": not raw}
        if raw or _are_ids(prompt):
            if documents or examples or cite:
                raise UsageError("documents and examples need a chat", hint="leave out raw, and give text or messages")
            return self.request(self.encode(prompt, system, raw, tools), **options)
        messages, found, trimmed = as_messages(prompt, system), read_documents(documents or ()), list[str]()
        if cite and (not found or options.get("lark") is not None):
            raise UsageError("there is nothing to cite, or another grammar", hint="give documents, and no lark")

        def fill(told: Messages, texts: Sequence[Document]) -> list[int]:
            whole = with_examples(told, examples or ())
            return self.encode(with_documents(whole, texts, cite) if texts else whole, tools=tools)

        if trim_documents and found:
            room = self.context - min(options.get("max_tokens") or 512, self.context // 4)
            found, trimmed = trim(found, lambda texts: fill(messages, texts), room)
        if cite:
            options["lark"] = citation_grammar(found)
        dropped, ids = 0, fill(messages, found)
        if len(ids) >= self.context and check_overflow(overflow) == "drop_oldest":
            room = self.context - self.context // HEADROOM
            _, ids, dropped = drop_oldest(messages, lambda told: fill(list(told), found), room)
        made = self.request(ids, **options)
        return replace(made, documents=tuple(found), trimmed_documents=tuple(trimmed), dropped_messages=dropped)

    def request(
        self,
        token_ids: Sequence[int],
        *,
        max_tokens: int | None = 512,
        stop: str | Sequence[str] | None = None,
        logprobs: int | None = None,
        prompt_logprobs: bool = False,
        lookup: int = 0,
        markers: bool = True,
        tools: Tools | None = None,
        tool_choice: Any = "auto",
        parallel_tool_calls: bool = True,
        reasoning_budget: int | None = None,
        schema: Any = None,
        regex: str | None = None,
        lark: str | None = None,
        choices: Sequence[str] | None = None,
        dropped_messages: int = 0,
        strangers: bool = False,
        **sampling: Any,
    ) -> Request:
        """A checked request for a prompt's token ids. `max_tokens` None: until the context is full.

        `strangers`: whether its grammars come from one who may mean harm; they are tried in a process of their own.
        """
        check_length(len(token_ids), self.context)
        grammar = self._grammar(grammar_of(schema, regex, lark, choices), strangers)
        functions = [] if tool_choice == "none" else functions_of(tools or [])
        if functions and grammar is not None:
            raise UsageError("tools and a grammar exclude each other", hint="give one of them, or tool_choice none")
        calls, must_call = self._calls(functions, tool_choice, parallel_tool_calls, strangers)
        if max_tokens is None:
            max_tokens = self.context - len(token_ids) + 1
        check_whole("max_tokens", max_tokens, 1, 1 << 31)
        check_whole("lookup", lookup, 0, MOST_DRAFTS)
        if reasoning_budget is not None:
            check_whole("reasoning_budget", reasoning_budget, 0, 1 << 31)
        if logprobs is not None:
            check_whole("logprobs", logprobs, 0, MOST_TOP_LOGPROBS)
        options = self.sampling.changed(**sampling)
        return Request(
            token_ids=tuple(token_ids),
            sampling=options,
            max_tokens=max_tokens,
            stop=_check_stops(stop),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            lookup=lookup,
            markers=markers,
            parameters={str(f["name"]): _parameters(f) for f in functions},
            breakers=self._breakers if options.dry_multiplier else frozenset(),
            grammar=grammar,
            calls=calls,
            must_call=must_call,
            reasoning_budget=reasoning_budget,
            dropped_messages=dropped_messages,
        )

    def _grammar(self, grammar: Grammar | None, strangers: bool) -> Compiled | None:
        if grammar is None:
            return None
        if self.engine.grammars is None:
            raise UsageError(f"{self.where} has no tokenizer.json", hint="grammars need the model's tokenizer")
        return self.engine.grammars.compile(grammar, apart=strangers)

    def _calls(
        self, functions: list[Mapping[str, Any]], choice: Any, parallel: bool, strangers: bool
    ) -> tuple[Compiled | None, bool]:
        """The grammar of calls to these functions, and whether the answer must be calls."""
        wanted = chosen_tool(choice, functions)
        must = choice not in (None, "auto", "none")
        grammars, tokenizer = self.engine.grammars, self.engine.tokenizer
        end = tokenizer.special_id(CALL_END) if tokenizer else None
        if not functions or grammars is None or end is None or not (grammars.available or must):
            if must:
                raise UsageError("tool_choice needs tools, and a model that knows calls", hint="give tools")
            return None, False
        grammar = call_grammar([wanted] if wanted is not None else functions, end, parallel)
        return self._grammar(grammar, strangers), must

    @cached_property
    def _breakers(self) -> frozenset[int]:
        """Tokens that DRY does not reach across: found when first needed, in 0.3 s at 65,536 entries."""
        return self.engine.tokenizer.ids_with(_DRY_BREAKERS) if self.engine.tokenizer else frozenset()


def _are_ids(prompt: Prompt) -> bool:
    """Whether a prompt is token ids, as a list or an array."""
    return not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], Integral)


def as_messages(prompt: Prompt, system: str | None = None) -> Messages:
    """Messages from a user's text, or as they are; the system message in front."""
    messages: Messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)  # type: ignore[arg-type]
    return messages


def with_examples(messages: Messages, examples: Examples) -> Messages:
    """Examples as turns before the first of the conversation.

    Raises:
        UsageError: one is no pair of texts.
    """
    turns: Messages = []
    for n, example in enumerate(examples):
        if not isinstance(example, Sequence) or len(example) != 2 or not all(isinstance(t, str) for t in example):
            raise UsageError(f"example {n} is no pair of texts", hint='examples are [("input", "output"), ...]')
        turns += [{"role": "user", "content": example[0]}, {"role": "assistant", "content": example[1]}]
    head = _system_messages(messages)
    return [*messages[:head], *turns, *messages[head:]]


def with_documents(messages: Messages, documents: Sequence[Document], cite: bool) -> Messages:
    """Documents at the end of the system message."""
    text, head = write_documents(documents, cite), _system_messages(messages)
    before = f"{messages[0].get('content') or ''}\n\n" if head else ""
    return [{"role": "system", "content": before + text}, *messages[head:]]


def trim(
    documents: Sequence[Document], fill: Callable[[Sequence[Document]], list[int]], room: int
) -> tuple[list[Document], list[str]]:
    """Documents cut to one length, the largest at which their prompt fits into `room` tokens; ids of those cut.

    Raises:
        ContextOverflowError: it does not fit even without their texts.
    """
    if len(fill(documents)) <= room:
        return list(documents), []
    low, high = 0, max(len(d.text) for d in documents)  # low fits, high does not
    if len(fill(shortened(documents, 0)[0])) > room:
        raise ContextOverflowError("the question does not fit beside the documents", hint="give fewer documents")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(fill(shortened(documents, middle)[0])) <= room else (low, middle)
    return shortened(documents, low)


def _system_messages(messages: Messages) -> int:
    return 1 if messages and isinstance(messages[0], Mapping) and messages[0].get("role") == "system" else 0


def _check_stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _MOST_STOPS or not all(isinstance(s, str) and 0 < len(s) <= _MOST_STOP_TEXT for s in stops):
        raise UsageError(
            "stop must be texts", hint=f"give at most {_MOST_STOPS}, of 1..{_MOST_STOP_TEXT} characters each"
        )
    return stops


def _parameters(function: Mapping[str, Any]) -> list[str]:
    """The names of a function's parameters in order."""
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    return list(properties) if isinstance(properties, Mapping) else []
