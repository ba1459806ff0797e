"""From what an application asks to a checked `Request`: prompts, documents, examples, tools, grammars, limits.

Everything that can be refused is refused here, before anything is computed. Knows the model's text side; computes
nothing. Types of options are checked where they come in (`checked`), ranges and contradictions here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np

from edge_lfm.api.calling import bind_calls
from edge_lfm.api.fitting import drop_oldest
from edge_lfm.api.messages import as_messages, ids_within, trim, with_documents, with_examples
from edge_lfm.api.options import AnswerOptions, Messages, Prompt, Tools
from edge_lfm.checking import check_whole, shown
from edge_lfm.engine.answering import Engine, Request
from edge_lfm.engine.drafts import MAX_DRAFTS
from edge_lfm.engine.generate import check_length
from edge_lfm.engine.grammar import Compiled, grammar_of
from edge_lfm.engine.sampling import SamplingArguments, SamplingOptions
from edge_lfm.errors import TemplateError, UsageError, about
from edge_lfm.text.dialects import PYTHONIC
from edge_lfm.text.documents import Document, citation_grammar, read_documents
from edge_lfm.text.spelled_marks import ends_with_mark, spelled_marks
from edge_lfm.text.template import ChatTemplate
from edge_lfm.text.tools import read_tools

DEFAULT_TOKENS = 512
MAX_TOP_LOGPROBS = 20
HEADROOM = 4
"""A full context is cleared by a quarter, so that not every turn after it begins anew."""
_MAX_STOPS, _MAX_STOP_TEXT = 16, 500
_MAX_STOP_IDS, _MAX_BAD_WORDS = 256, 1000
_MAX_COUNT = 1 << 31
_EFFORT = "reasoning_effort"
"""How an option and a template's switch are called."""
_FORMS = ("schema", "regex", "lark", "choices")
_DRY_BREAKERS = ("\n", ":", '"', "*")


@dataclass(frozen=True)
class Requests:
    """Makes requests for one model.

    sampling: the model's own defaults; rows: ids that it can read; where: its folder, for messages.
    """

    engine: Engine
    template: ChatTemplate | None
    sampling: SamplingOptions
    context: int
    rows: int
    where: str

    def check_ids(self, values: Any) -> list[int]:
        """Token ids as a list.

        Raises:
            UsageError: one is no whole number, or the model does not know it.
        """
        ids = values.tolist() if isinstance(values, np.ndarray) else values
        for n, value in enumerate(ids):
            if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= int(value) < self.rows:
                hint = f"ids of this model are 0..{self.rows - 1}"
                raise UsageError(f"token {n} is {shown(value)}", hint=hint)
        return [int(value) for value in ids]

    def encode(
        self,
        prompt: Prompt,
        system: str | None = None,
        raw: bool = False,
        tools: Tools | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a prompt; see `Model.encode_prompt`."""
        if (system is not None or chat_template_kwargs) and (raw or are_ids(prompt)):
            what = "a system message needs" if system is not None else "chat_template_kwargs need"
            param = "system" if system is not None else "chat_template_kwargs"
            raise UsageError(f"{what} a chat", hint="leave out raw, and give text or messages", param=param)
        with about("prompt"):
            return self._encode(prompt, system, raw, tools, chat_template_kwargs)

    def _encode(
        self,
        prompt: Prompt,
        system: str | None,
        raw: bool,
        tools: Tools | None,
        switches: Mapping[str, Any] | None,
    ) -> list[int]:
        if are_ids(prompt):
            return self.check_ids(prompt)
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            raise UsageError(f"{self.where} has no tokenizer.json", hint="give token ids, or copy the file there")
        if raw:
            if not isinstance(prompt, str):
                raise UsageError("a raw prompt is a text", hint="give a string")
            tokenizer.check_room(prompt, self.context)
            return tokenizer.encode(prompt, bos=True, special=True)
        if self.template is None:
            raise TemplateError(f"{self.where} has no chat template", hint="use raw text (--raw)")
        messages = as_messages(prompt, system)
        return self.template.encode(messages, tokenizer, tools=tools, switches=switches, room=self.context)

    def prepare(self, prompt: Prompt, options: AnswerOptions) -> Request:
        """A checked request; options as in `Model.generate`.

        Raises:
            EdgeLfmError: as `Model.generate`.
        """
        raw, cite, system = options.get("raw", False), options.get("cite", False), options.get("system")
        tools = None if options.get("tool_choice") == "none" else options.get("tools")
        switches = self._switches(options)
        examples = options.get("examples") or ()
        with about("documents"):
            documents = read_documents(options.get("documents") or ())
        if raw or are_ids(prompt):
            if documents or examples or cite:
                param = "documents" if documents else "examples" if examples else "cite"
                hint = "leave out raw, and give text or messages"
                raise UsageError("documents and examples need a chat", hint=hint, param=param)
            return self._request(self.encode(prompt, system, raw, tools, switches), options)
        with about("prompt"):
            messages, trimmed = as_messages(prompt, system), list[str]()
        if cite and (not documents or options.get("lark") is not None):
            hint = "give documents, and no lark"
            raise UsageError("there is nothing to cite, or another grammar", hint=hint, param="cite")

        def fill(turns: Messages, texts: Sequence[Document]) -> list[int]:
            whole = with_examples(turns, examples)
            asked = with_documents(whole, texts, cite) if texts else whole
            return self.encode(asked, tools=tools, chat_template_kwargs=switches)

        if options.get("trim_documents") and documents:
            room = self.context - min(options.get("max_tokens") or DEFAULT_TOKENS, self.context // 4)
            documents, trimmed = trim(documents, lambda texts: fill(messages, texts), room)
        if cite:
            options = {**options, "lark": citation_grammar(documents)}
        dropped, ids = 0, ids_within(lambda: fill(messages, documents), self.context - 1)
        if ids is None and options.get("overflow") == "drop_oldest":
            room = self.context - self.context // HEADROOM
            _, ids, dropped = drop_oldest(messages, lambda turns: fill(turns, documents), room)
        elif ids is None:
            ids = fill(messages, documents)  # as long as the context, or refused
        made = self._request(ids, options)
        return replace(made, documents=tuple(documents), trimmed_documents=tuple(trimmed), dropped_messages=dropped)

    def _switches(self, options: AnswerOptions) -> Mapping[str, Any] | None:
        """The switches of the chat template, with how much to think among them."""
        switches, effort = options.get("chat_template_kwargs"), options.get(_EFFORT)
        known = self.template is not None and _EFFORT in self.template.switches
        if effort is None or (effort == "medium" and not known):
            return switches
        if not known or {_EFFORT: effort, **(switches or {})}[_EFFORT] != effort:
            why = (
                "chat_template_kwargs say another" if known else "the chat template has no switch for how much to think"
            )
            raise UsageError(f"{_EFFORT} is {effort}, and {why}", hint="leave it out", param=_EFFORT)
        return {**(switches or {}), _EFFORT: effort}

    def _request(self, token_ids: Sequence[int], options: AnswerOptions) -> Request:
        """A checked request for a prompt's token ids."""
        check_length(len(token_ids), self.context)
        choice, untrusted = options.get("tool_choice", "auto"), options.get("untrusted", False)
        grammar = self._grammar(options, untrusted)
        dialect = self.template.dialect if self.template is not None else PYTHONIC
        parallel, spelled = options.get("parallel_tool_calls", True), self._spelled_marks
        with about("tools"):
            tools = read_tools(options.get("tools") or [])
            formed = grammar is not None and not options.get("raw", False)
            calling = bind_calls(self.engine, dialect, spelled, tools, choice, parallel, untrusted, formed)
            told = calling.grammar is not None and dialect.call_start not in spelled
            if calling.parameters and grammar is not None and not told:
                why = "calls that can be told from the answer, which this model does not write"
                raise UsageError(f"tools beside a grammar need {why}", hint="give one of them, or tool_choice none")
        if options.get("reasoning_budget") is not None:
            self._check_reasoning(token_ids)
        max_tokens = options.get("max_tokens", DEFAULT_TOKENS)
        if max_tokens is None:
            max_tokens = self.context - len(token_ids) + 1
        sampling = self.sampling.changed(**_sampling_of(options))
        return Request(
            token_ids=tuple(token_ids),
            sampling=sampling,
            max_tokens=check_whole("max_tokens", max_tokens, 1, _MAX_COUNT),
            min_tokens=_check_least(options.get("min_tokens", 0), max_tokens),
            stop=_check_stops(options.get("stop")),
            stop_token_ids=self._stop_ids(options.get("stop_token_ids") or ()),
            ignore_eos=options.get("ignore_eos", False),
            bad_words=self._bad_words(options.get("bad_words") or ()),
            logprobs=_whole_or_none("logprobs", options.get("logprobs"), MAX_TOP_LOGPROBS),
            prompt_logprobs=options.get("prompt_logprobs", False),
            lookup=check_whole("lookup", options.get("lookup", 0), 0, MAX_DRAFTS),
            max_drafts=_whole_or_none("max_drafts", options.get("max_drafts"), MAX_DRAFTS),
            markers=not options.get("raw", False),
            dialect=dialect,
            spelled=spelled,
            parameters=calling.parameters,
            checks=calling.checks,
            breakers=self._breakers if sampling.dry_multiplier else frozenset(),
            grammar=grammar,
            calls=calling.grammar,
            must_call=calling.must_call,
            single_call=not parallel,
            reasoning_budget=_whole_or_none("reasoning_budget", options.get("reasoning_budget"), _MAX_COUNT),
        )

    def _check_reasoning(self, token_ids: Sequence[int]) -> None:
        """Refuse a limit of reasoning that the prompt does not begin, and of which no token tells where it begins."""
        template, tokenizer = self.template, self.engine.tokenizer
        if template is None or tokenizer is None or template.dialect.think_start not in self._spelled_marks:
            return
        if not template.dialect.frames and not ends_with_mark(token_ids, template.dialect.think_start, tokenizer):
            raise UsageError(
                f"reasoning_budget needs a token {template.dialect.think_start}, which the model does not have",
                hint="leave it out, or see whether the chat template has a switch for reasoning",
                param="reasoning_budget",
            )

    def _grammar(self, options: AnswerOptions, untrusted: bool) -> Compiled | None:
        """The grammar of the whole answer, if one is asked for."""
        given: dict[str, Any] = {name: options.get(name) for name in _FORMS}
        asked = next((name for name in _FORMS if given[name] is not None), None)
        if asked is None:
            return None
        with about(asked):
            grammar = grammar_of(**given)
            assert grammar is not None
            if self.engine.grammars is None:
                raise UsageError(f"{self.where} has no tokenizer.json", hint="grammars need the model's tokenizer")
            return self.engine.grammars.compile(grammar, apart=untrusted)

    def _stop_ids(self, values: Sequence[int]) -> tuple[int, ...]:
        if len(values) > _MAX_STOP_IDS:
            hint = f"at most {_MAX_STOP_IDS} are taken"
            raise UsageError(f"stop_token_ids has {len(values)} ids", hint=hint, param="stop_token_ids")
        try:
            return tuple(self.check_ids(values))
        except UsageError as error:
            raise UsageError(f"stop_token_ids: {error.message}", hint=error.hint, param="stop_token_ids") from None

    def _bad_words(self, words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """The tokens of each word, with a space in front and without one, as vLLM reads them."""
        if not words:
            return ()
        tokenizer = self.engine.tokenizer
        if tokenizer is None:
            hint = "bad_words need the model's tokenizer"
            raise UsageError(f"{self.where} has no tokenizer.json", hint=hint, param="bad_words")
        if len(words) > _MAX_BAD_WORDS or not all(0 < len(word.lstrip()) <= _MAX_STOP_TEXT for word in words):
            raise UsageError(
                "bad_words must be texts",
                hint=f"at most {_MAX_BAD_WORDS}, of 1..{_MAX_STOP_TEXT} characters each",
                param="bad_words",
            )
        texts = (text for word in words for text in (word.lstrip(), f" {word.lstrip()}"))
        sequences = dict.fromkeys(tuple(tokenizer.encode(text, special=True)) for text in texts)
        return tuple(ids for ids in sequences if ids and ids[-1] < self.engine.vocab)

    @cached_property
    def _spelled_marks(self) -> tuple[str, ...]:
        """The marks of the dialect that the chat template writes and the vocabulary has no tokens for."""
        if self.template is None or self.engine.tokenizer is None:
            return ()
        return spelled_marks(self.template.dialect, self.template.source, self.engine.tokenizer)

    @cached_property
    def _breakers(self) -> frozenset[int]:
        """Tokens that DRY does not reach across: found when first needed, in 0.3 s at 65,536 entries."""
        return self.engine.tokenizer.ids_with(_DRY_BREAKERS) if self.engine.tokenizer else frozenset()


def are_ids(prompt: Prompt) -> bool:
    """Whether a prompt is token ids, as a list or an array."""
    return not isinstance(prompt, str) and len(prompt) > 0 and isinstance(prompt[0], Integral)


def _sampling_of(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in SamplingArguments.__annotations__ if name in options}


def _whole_or_none(name: str, value: int | None, limit: int) -> int | None:
    return None if value is None else check_whole(name, value, 0, limit)


def _check_least(min_tokens: int, max_tokens: int) -> int:
    if check_whole("min_tokens", min_tokens, 0, _MAX_COUNT) > max_tokens:
        message = f"min_tokens is {min_tokens}, and max_tokens {max_tokens}"
        raise UsageError(message, hint="raise max_tokens", param="min_tokens")
    return min_tokens


def _check_stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > _MAX_STOPS or not all(isinstance(s, str) and 0 < len(s) <= _MAX_STOP_TEXT for s in stops):
        raise UsageError(
            "stop must be texts",
            hint=f"give at most {_MAX_STOPS}, of 1..{_MAX_STOP_TEXT} characters each",
            param="stop",
        )
    return stops
