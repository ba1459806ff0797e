"""One request, from its token ids to its events: a generator of feeds for the engine thread.

What comes of a step goes into the job's channel as soon as it is known. Knows how an answer is put together; does not
know who asked, or how messages become tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edge_lfm.engine.backend import Backend
from edge_lfm.engine.channels import InChannels
from edge_lfm.engine.constraints import AfterReasoning, CallsOr, Constraint, InCalls, NotYet, Without
from edge_lfm.engine.drafts import MAX_DRAFTS, decode_with_drafts
from edge_lfm.engine.events import Completion, Done, Event, Progress, Reasoning, Text, ToolCall
from edge_lfm.engine.feeds import Logits, Steps
from edge_lfm.engine.generate import Timings, check_length, decode, prefill
from edge_lfm.engine.grammar import Compiled, GrammarCompiler
from edge_lfm.engine.lookup import Lookup
from edge_lfm.engine.model_drafter import model_drafter
from edge_lfm.engine.pool import SequencePool
from edge_lfm.engine.sampling import Sampler, SamplingOptions, TokenLogprobs, token_logprobs
from edge_lfm.engine.scheduler import Job
from edge_lfm.engine.score import read_prompt, score_answer
from edge_lfm.engine.sequence import TokenSequence
from edge_lfm.engine.spelled_reasoning import AfterSpelledReasoning, Before, SpelledReasoningLimit
from edge_lfm.errors import CancelledError, ToolCallError
from edge_lfm.memory.plan import LOGIT_ROWS
from edge_lfm.text.answer import AnswerParser, opens_reasoning
from edge_lfm.text.channels import ChannelParser
from edge_lfm.text.dialects import PYTHONIC, Dialect, Parameters
from edge_lfm.text.documents import Document, find_citations
from edge_lfm.text.parts import Part
from edge_lfm.text.spelled_marks import ends_with_mark
from edge_lfm.text.tokenizer import Tokenizer
from edge_lfm.text.tool_calls import parse_calls

Events = tuple[Event, ...]


@dataclass(frozen=True)
class Engine:
    """What a request needs of a model. `turn_id`: the token that opens a turn."""

    runner: Backend
    pool: SequencePool
    tokenizer: Tokenizer | None
    vocab: int
    stop_ids: tuple[int, ...]
    turn_id: int | None
    grammars: GrammarCompiler | None


@dataclass(frozen=True)
class Request:
    """A prompt and what is wanted of its answer.

    min_tokens: so many tokens come before a stop token or a stop string may end the answer.
    stop_token_ids: tokens that end the answer beside the model's own, without a text; ignore_eos: those do not end it.
    bad_words: sequences of tokens that the answer may not complete.
    lookup: drafts of prompt lookup in each step. max_drafts: of a drafter model; None: as many as pay.
    logprobs: how many of the most likely tokens to tell for each token; None: no log probabilities.
    prompt_logprobs: tell them for the prompt's tokens too, which are then all computed anew.
    markers: sort the answer into text, reasoning and tool calls.
    parameters: those of each tool, in order.
    dialect: how the model writes calls and reasoning; spelled: its marks that the vocabulary has no tokens for.
    checks: what is wrong with the arguments of a call, for tools that the grammar does not bind in full.
    calls: the grammar of tool calls, of the whole answer where the mark that begins them is a text, or of each message
        where the answer is such.
    must_call: the answer is to be calls. single_call: it has one at the most.
    reasoning_budget: the most tokens of reasoning.
    breakers: tokens that DRY does not reach across.
    grammar: what the answer must follow, unless it is calls.
    documents: what the answer may cite; trimmed_documents: ids of those that were cut.
    """

    token_ids: tuple[int, ...]
    sampling: SamplingOptions
    max_tokens: int
    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    bad_words: tuple[tuple[int, ...], ...] = ()
    logprobs: int | None = None
    prompt_logprobs: bool = False
    lookup: int = 0
    max_drafts: int | None = None
    markers: bool = True
    parameters: Parameters = field(default_factory=dict)
    dialect: Dialect = PYTHONIC
    spelled: tuple[str, ...] = ()
    checks: Mapping[str, Callable[[Any], str | None]] = field(default_factory=dict)
    breakers: frozenset[int] = frozenset()
    grammar: Compiled | None = None
    calls: Compiled | None = None
    must_call: bool = False
    single_call: bool = False
    reasoning_budget: int | None = None
    documents: tuple[Document, ...] = ()
    trimmed_documents: tuple[str, ...] = ()
    dropped_messages: int = 0

    def drawn_with(self, seed: int | None) -> Request:
        """The same, drawn with another seed."""
        return replace(self, sampling=replace(self.sampling, seed=seed))


def answer(
    engine: Engine, request: Request, job: Job[Events], holder: Callable[[], Any] | None = None
) -> Steps[Events]:
    """The steps of a request; returns its last events.

    `holder`: a weak reference to the conversation whose sequence it continues.

    Raises:
        ContextOverflowError, NumericalError, CancelledError: as `prefill` and `decode`.
    """
    ids = request.token_ids
    timings = Timings(prompt_tokens=len(ids), queued_s=time.perf_counter() - job.submitted)
    sampler = Sampler(request.sampling, engine.vocab, ids, request.breakers, _constraint(engine, request))
    sequence = engine.pool.take(() if request.prompt_logprobs else ids, holder)
    if sequence.state.draft is not None:
        sequence.state.draft.wanted = bool(_max_drafts(request))
    try:
        reading = _read_with_logprobs if request.prompt_logprobs else _read
        logits, prompt_logprobs = yield from reading(engine, request, sequence, timings, job)
        job.release()
        last = yield from _write(engine, request, sequence, logits, sampler, timings, prompt_logprobs, job)
    except (GeneratorExit, CancelledError):  # between two steps, or a step that was undone
        engine.pool.give(sequence, holder)
        raise
    engine.pool.give(sequence, holder)
    return last


def score(engine: Engine, prompt: Sequence[int], answer: Sequence[int], job: Job[float]) -> Steps[float]:
    """The steps of scoring one answer to a prompt, which others may be scored for too; see `engine/score.py`."""
    turns = [n for n, i in enumerate(prompt) if i == engine.turn_id]
    sequence = engine.pool.take(prompt)
    try:
        yield from read_prompt(engine.runner, sequence, prompt, turns)
        job.release()
        value = yield from score_answer(sequence, prompt[-1], answer, engine.vocab)
    except (GeneratorExit, CancelledError):
        engine.pool.give(sequence)
        raise
    engine.pool.give(sequence)
    return value


def _constraint(engine: Engine, request: Request) -> Constraint | None:
    """What the answer must follow: its form, what it may not say, and how long it must be."""
    constraint = _form(engine, request)
    if request.bad_words:
        constraint = Without(constraint, request.bad_words, engine.vocab)
    if request.min_tokens:
        ends = {*engine.stop_ids, *request.stop_token_ids}
        constraint = NotYet(constraint, [i for i in ends if i < engine.vocab], engine.vocab, request.min_tokens)
    return constraint


def _stop_ids(engine: Engine, request: Request) -> tuple[int, ...]:
    return (*(() if request.ignore_eos else engine.stop_ids), *request.stop_token_ids)


def _form(engine: Engine, request: Request) -> Constraint | None:
    """The form of the answer: a grammar, that of calls once one begins, or either; all after the reasoning only."""
    tokenizer, vocab = engine.tokenizer, engine.vocab
    if tokenizer is None:
        return None
    constraint: Constraint | None = request.grammar.start() if request.grammar is not None else None
    channels = request.dialect.channels
    if channels is not None and (request.markers or request.calls is not None):
        budget, make = request.reasoning_budget, request.calls.start if request.calls is not None else None
        if constraint is None and budget is None and make is None:
            return None
        stays = constraint is not None or request.must_call
        return InChannels(tokenizer, channels, request.token_ids, vocab, make, constraint, stays, budget)
    if request.calls is not None:
        constraint = _with_calls(request, request.calls, constraint, tokenizer, vocab)
    dialect = request.dialect
    begin, end = tokenizer.special_id(dialect.think_start), tokenizer.special_id(dialect.think_end)
    budget = request.reasoning_budget
    if not request.markers or (constraint is None and budget is None):
        return constraint
    if begin is not None and end is not None:
        opened = opens_reasoning(request.token_ids, begin, end)
        return AfterReasoning(constraint, begin, end, vocab, opened, budget, _early_ends(engine, request))
    return _around_spelled_reasoning(engine, request, constraint, tokenizer)


def _early_ends(engine: Engine, request: Request) -> tuple[int, ...]:
    """Tokens that may not end an answer within its reasoning, because a form or a call must follow."""
    due = request.grammar is not None or request.must_call
    return (*engine.stop_ids, *request.stop_token_ids) if due else ()


def _around_spelled_reasoning(
    engine: Engine, request: Request, constraint: Constraint | None, tokenizer: Tokenizer
) -> Constraint | None:
    """The same where the marks of reasoning are texts. A form of texts has its answers in frames, thoughts before."""
    dialect, budget, vocab = request.dialect, request.reasoning_budget, engine.vocab
    marks, framed, whole = (dialect.think_start, dialect.think_end), bool(dialect.frames), request.calls is not None
    if dialect.think_end not in request.spelled:
        return constraint
    begun, over = (ends_with_mark(request.token_ids, mark, tokenizer) for mark in marks)
    if begun or (framed and constraint is not None and not whole):
        before: Before = "prompt begins" if begun else "none" if over else "may begin"
        opens = dialect.frames[0] if framed and not whole else ""
        ends = _early_ends(engine, request)
        return AfterSpelledReasoning(constraint, marks, tokenizer, vocab, budget, before, opens, ends)
    if framed and budget is not None and not over:
        return SpelledReasoningLimit(constraint, marks, tokenizer, vocab, budget)
    return constraint


def _with_calls(
    request: Request, calls: Compiled, form: Constraint | None, tokenizer: Tokenizer, vocab: int
) -> Constraint:
    """Calls within free text, calls alone where they must come, or calls in place of a form."""
    start = tokenizer.special_id(request.dialect.call_start)
    if start is None:  # the grammar is that of the whole answer; a form beside it is refused (`requests.py`)
        return calls.start()
    alone = request.must_call or form is not None
    inside = InCalls(calls.start, start, vocab, alone, request.single_call)
    return inside if form is None or request.must_call else CallsOr(inside, form, start)


Reading = Steps[tuple[Logits, tuple[TokenLogprobs, ...]]]
"""Returns the logits of the prompt's last token [vocab], and the log probabilities of its tokens."""


def _read(engine: Engine, request: Request, sequence: TokenSequence, timings: Timings, job: Job[Events]) -> Reading:
    """Prefill, without log probabilities."""
    ids, started = request.token_ids, time.perf_counter()
    timings.cached_tokens = len(sequence.ids)
    turns = [n for n, i in enumerate(ids) if i == engine.turn_id]

    def progress() -> None:
        job.put((Progress(len(sequence.ids), len(ids), timings.cached_tokens),))

    logits = yield from prefill(engine.runner, sequence, ids, turns, progress)
    timings.prefill_s = time.perf_counter() - started
    return logits, ()


def _read_with_logprobs(
    engine: Engine, request: Request, sequence: TokenSequence, timings: Timings, job: Job[Events]
) -> Reading:
    """Prefill with the log probabilities of every token of the prompt but the first."""
    ids, started = request.token_ids, time.perf_counter()
    check_length(len(ids), sequence.state.context)
    logprobs: list[TokenLogprobs] = []
    while (first := len(sequence.ids)) < len(ids):
        _, rows = yield from sequence.draft(ids[first : first + LOGIT_ROWS], divisible=True)
        for row, token in zip(rows, ids[first + 1 : first + 1 + len(rows)], strict=False):
            logprobs.append(token_logprobs(row, engine.vocab, token, request.logprobs or 0))
        job.put((Progress(len(sequence.ids), len(ids), 0),))
    timings.prefill_s = time.perf_counter() - started
    return rows[-1], tuple(logprobs)


def _write(
    engine: Engine,
    request: Request,
    sequence: TokenSequence,
    logits: Logits,
    sampler: Sampler,
    timings: Timings,
    prompt_logprobs: tuple[TokenLogprobs, ...],
    job: Job[Events],
) -> Steps[Events]:
    """Decode: events token by token; the last ones, with `Done`, are returned."""
    stop_ids = _stop_ids(engine, request)
    draft, before = _Draft(engine, request, stop_ids), replace(job.spent)

    def give(token: int, row: Logits | None) -> bool:
        job.put(draft.add(token, row))
        return not draft.stopped

    common = (sequence, logits, sampler, stop_ids, request.max_tokens, timings, give)
    told = request.logprobs is not None
    skip = not told and not request.stop_token_ids
    if request.lookup:
        yield from decode_with_drafts(*common, Lookup(sampler.seen), request.lookup, skip)
    elif drafter := model_drafter(engine.runner, sequence, _max_drafts(request)):
        yield from decode_with_drafts(*common, drafter, MAX_DRAFTS, skip)
    else:
        yield from decode(*common, skip, screened=not told)
    timings.decode_s = job.spent.seconds - before.seconds + timings.drafting_s
    timings.steps, timings.rows = job.spent.steps - before.steps, job.spent.rows - before.rows
    timings.experts = job.spent.experts - before.experts
    events = draft.finish()
    generated = tuple(sampler.answer[: timings.completion_tokens])  # a stop string cuts what came in one step
    ended = draft.stopped or sampler.ended or (bool(generated) and generated[-1] in stop_ids)
    return (*events, Done(draft.completion(generated, ended, timings, prompt_logprobs)))


def _max_drafts(request: Request) -> int | None:
    """Drafts of a drafter model in each step; None: as many as pay. What a grammar forces needs no drafts."""
    if request.lookup:
        return 0
    return 0 if request.max_drafts is None and request.grammar is not None else request.max_drafts


def _parser_of(tokenizer: Tokenizer, request: Request) -> AnswerParser | ChannelParser:
    dialect = request.dialect
    if dialect.channels is not None and request.markers:
        return ChannelParser(tokenizer, request.token_ids, dialect.channels, request.stop, request.min_tokens)
    return AnswerParser(
        tokenizer,
        request.token_ids,
        request.stop,
        request.markers,
        list(request.parameters) if request.grammar is None else (),  # beside a form calls have their marks
        dialect,
        request.min_tokens,
        request.spelled,
    )


class _Draft:
    """An answer in the making: tokens in, events out."""

    def __init__(self, engine: Engine, request: Request, stop_ids: Sequence[int]) -> None:
        self._engine, self._request, self._stop_ids = engine, request, stop_ids
        self._parser = _parser_of(engine.tokenizer, request) if engine.tokenizer is not None else None
        end = engine.tokenizer.special_id(request.dialect.call_end) if engine.tokenizer is not None else None
        self._call_end = end if request.markers else None  # may be a token that ends the answer too
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []
        self._logprobs: list[TokenLogprobs] = []
        self._told: list[TokenLogprobs] = []  # those of the tokens that went out as text
        self._problem = ""

    @property
    def stopped(self) -> bool:
        parser = self._parser
        return parser is not None and (bool(parser.stopped_by) or (parser.ended and not self._request.ignore_eos))

    def add(self, token: int, logits: Logits | None) -> Events:
        stop = token in self._stop_ids
        if self._request.logprobs is not None and logits is not None:
            self._logprobs.append(token_logprobs(logits, self._engine.vocab, token, self._request.logprobs))
        heard = not stop or token == self._call_end
        return self._events(self._parser.feed(token)) if self._parser is not None and heard else ()

    def finish(self) -> Events:
        return self._events(self._parser.finish()) if self._parser is not None else ()

    def completion(
        self, generated: tuple[int, ...], ended: bool, timings: Timings, prompt_logprobs: tuple[TokenLogprobs, ...]
    ) -> Completion:
        reason = ("tool_calls" if self._calls else "stop") if ended else "length"
        return Completion(
            text="".join(self._text),
            token_ids=generated,
            finish_reason=reason,
            timings=timings,
            reasoning="".join(self._reasoning),
            tool_calls=tuple(self._calls),
            logprobs=tuple(self._logprobs),
            text_logprobs=tuple(self._told),
            problem=self._problem,
            prompt_logprobs=prompt_logprobs,
            reasoning_tokens=self._parser.reasoning_tokens if self._parser is not None else 0,
            citations=tuple(find_citations("".join(self._text), self._request.documents)),
            trimmed_documents=self._request.trimmed_documents,
            dropped_messages=self._request.dropped_messages,
            stopped_by=self._parser.stopped_by if self._parser is not None else "",
        )

    def _events(self, parts: Sequence[Part]) -> Events:
        events: list[Event] = []
        for part in parts:
            if part.kind == "reasoning":
                self._reasoning.append(part.text)
                events.append(Reasoning(part.text))
            elif part.kind == "call":
                events += self._read_call(part)
            else:
                events.append(self._say(part))
        return tuple(events)

    def _say(self, part: Part) -> Text:
        self._text.append(part.text)
        shown = tuple(self._logprobs[n] for n in part.tokens if n < len(self._logprobs))
        self._told += shown
        return Text(part.text, shown)

    def _read_call(self, part: Part) -> list[Event]:
        """The calls of a text; what is none, names an unknown tool or breaks its schema is shown as it is."""
        request = self._request
        try:
            calls = [ToolCall(c.name, c.arguments) for c in parse_calls(part.text, request.parameters, request.dialect)]
        except ToolCallError:
            return [self._say(part)]
        if request.parameters and any(call.name not in request.parameters for call in calls):
            return [self._say(part)]
        for call in calls:
            problem = request.checks[call.name](call.arguments) if call.name in request.checks else None
            if problem is not None:
                self._problem = f"{call.name}: {problem}"
                return [self._say(part)]
        self._calls += calls
        return [*calls]
