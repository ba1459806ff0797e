"""A loaded model: answers, logits, conversations, and what it costs.

Nothing here knows how a token is computed. Safe to use from several threads and from asyncio: one engine thread does
the work, and its steps serve several requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from edge_lfm.api.generation import AsyncGeneration, Generation, OnEnd
from edge_lfm.api.load_options import LoadOptions
from edge_lfm.api.loading import load_model
from edge_lfm.api.messages import as_messages
from edge_lfm.api.open_model import OpenModel
from edge_lfm.api.options import AnswerOptions, Examples, Message, Overflow, Prompt, Tools
from edge_lfm.api.requests import are_ids
from edge_lfm.api.retry import CALL_TRIES, Check, Retry
from edge_lfm.api.session import Session
from edge_lfm.checking import called_as, check_path, check_whole, checked
from edge_lfm.engine.answering import Events, Request, score
from edge_lfm.engine.events import Completion
from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.pool import PoolStats
from edge_lfm.engine.sampling_steps import softmax
from edge_lfm.engine.scheduler import Job, StepCounts
from edge_lfm.errors import UsageError
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.paging import PagingStats

_LOGIT_ROWS = 64
MAX_LABELS = 1000
MAX_ANSWERS = 1000


@dataclass(frozen=True)
class Activity:
    """What a model is doing. active: answers that are made now; waiting: requests in the queue; last_step: when the
    last step ended, as `time.monotonic` counts."""

    active: int
    waiting: int
    last_step: float


class Model(OpenModel):
    """A loaded model; a context manager. Made by `Model.load`."""

    @classmethod
    @called_as(LoadOptions)
    def load(cls, *path: Any, **options: Any) -> Model:
        """Open a packed model; by default the embedded demo model. Arguments: those of `LoadOptions`.

        Raises:
            UsageError: an option is unknown, not of its type, or out of range.
            EdgeLfmError: the folder is no packed model, does not fit, or this processor cannot run it.
        """
        return cls.open(LoadOptions(*path, **options))

    @classmethod
    @checked
    def open(cls, options: LoadOptions) -> Model:
        """As `load`, with options that are made already."""
        loaded = load_model(options)
        try:
            return cls(loaded)
        except BaseException:
            loaded.close()
            raise

    @property
    def isa(self) -> str:
        """The ISA tier of the kernels in use, or the name of another runtime."""
        return self.backend.name

    @property
    def threads(self) -> int:
        """Threads that compute."""
        return self.backend.threads

    @property
    def parallel(self) -> int:
        """Answers that are made at a time."""
        return self.scheduler.parallel

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return self.engine.stop_ids

    @property
    def paging(self) -> PagingStats | None:
        """Counters of expert paging, or None when the whole model is in memory."""
        return self.backend.pager.stats if self.backend.pager else None

    @property
    def reuse(self) -> PoolStats:
        """Counters of what was kept of earlier prompts and used again."""
        return self.engine.pool.stats

    @property
    def steps(self) -> StepCounts:
        """Counters of steps, and of what they held."""
        return self.scheduler.counts

    @property
    def activity(self) -> Activity:
        """What the engine is doing right now."""
        return Activity(self.scheduler.active, self.scheduler.waiting, self.scheduler.last_step)

    @checked
    def change_budget(self, ram: str | int) -> None:
        """Give memory back while running, or take again what was given back; for models whose experts are paged.

        Raises:
            UsageError: the whole model is in memory, or `ram` is not a size.
            DoesNotFitError: the budget is too small.
        """
        self.backend.change_budget(Budget.of(ram))

    @checked
    def logits(self, token_ids: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Logits [tokens, vocab_size] of a sequence from its start, float32.

        Raises:
            EdgeLfmError: the sequence is empty, too long, or has an id that the model does not know.
        """
        ids = np.array(self.requests.check_ids(token_ids), np.int64)
        if not ids.size:
            raise UsageError("there are no token_ids", hint="encode some text first")
        state = self.new_state()
        chunks = [ids[n : n + _LOGIT_ROWS] for n in range(0, len(ids), _LOGIT_ROWS)]
        call, run = self.scheduler.call, self.backend.run
        feeds = [Feed(state, chunk, "all") for chunk in chunks]
        return np.concatenate([call(lambda feed=feed: run([feed])[0]) for feed in feeds])  # type: ignore[misc]

    @checked
    def encode_prompt(
        self,
        prompt: Prompt,
        system: str | None = None,
        raw: bool = False,
        tools: Tools | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a prompt: a user's text, messages, plain text if `raw`, or ids as they are.

        Raises:
            EdgeLfmError: the model has no tokenizer or template, or the template refuses the messages.
        """
        return self.requests.encode(prompt, system, raw, tools, chat_template_kwargs)

    @checked
    def generate(self, prompt: Prompt, **options: Unpack[AnswerOptions]) -> Completion:
        """Answer a prompt; the whole answer. What an earlier prompt has in common with it is not computed again.

        Args:
            prompt: a user's text, a list of messages, or token ids.
            options: those of `AnswerOptions`: the messages around it, tools, the form of the answer, its length, and
                how tokens are drawn.

        Raises:
            EdgeLfmError: an option is unknown or out of range, or the prompt does not fit into the context.
            CheckError: the calls of several answers broke a tool's schema that cannot be bound in full.
        """
        return self._whole(prompt, options)

    @checked
    def stream(self, prompt: Prompt, **options: Unpack[AnswerOptions]) -> Generation:
        """As `generate`, with the answer as it comes: iterate it for events, or its `texts()`."""
        return self._start(prompt, options)

    @checked
    def generate_several(self, prompt: Prompt, count: int, **options: Unpack[AnswerOptions]) -> list[Completion]:
        """Several answers to one prompt, made together: it is read once, and each goes on from a copy of what was read.

        Args:
            prompt, options: as in `generate`; with a `seed`, the n-th answer is that of the seed + n.
            count: of answers.

        Raises:
            EdgeLfmError: as `generate`.
        """
        check_whole("count", count, 1, MAX_ANSWERS)
        request = self.requests.prepare(prompt, options)
        seed = request.sampling.seed
        jobs: list[Job[Events]] = []
        try:
            for n in range(count):
                one = request if n == 0 else request.drawn_with(None if seed is None else (seed + n) % (1 << 64))
                jobs.append(self.submit(one, after=jobs[0] if jobs and not request.prompt_logprobs else None))
            return [Generation(job).result() for job in jobs]
        finally:
            for job in jobs:
                job.cancel()

    @checked
    async def generate_async(self, prompt: Prompt, **options: Unpack[AnswerOptions]) -> Completion:
        """As `generate`, for asyncio; cancelling the task stops the engine."""
        return await self.start_async(self.requests.prepare(prompt, options)).result()

    @checked
    def stream_async(self, prompt: Prompt, **options: Unpack[AnswerOptions]) -> AsyncGeneration:
        """As `stream`, for asyncio."""
        return self.start_async(self.requests.prepare(prompt, options))

    @checked
    def start_async(
        self,
        request: Request,
        *,
        queue_limit: int | None = None,
        on_end: OnEnd | None = None,
        after: AsyncGeneration | None = None,
    ) -> AsyncGeneration:
        """Start the answer to a request that `prepare` has made, for asyncio.

        Args:
            after: another answer to the same prompt: this one begins when the prompt has been read for that one.
            queue_limit: how many requests may wait before this one; None: any number.
            on_end: as of `OnEnd`.

        Raises:
            BusyError: `queue_limit` requests are waiting already.
        """
        job = self.submit(request, queue_limit=queue_limit, after=after.job if after is not None else None)
        return AsyncGeneration(job, on_end)

    @checked
    def chat(self, messages: Sequence[Message], **options: Unpack[AnswerOptions]) -> Completion:
        """As `generate`, for a list of messages."""
        return self._whole(messages, options)

    def _whole(self, prompt: Prompt, options: AnswerOptions) -> Completion:
        """The whole answer, asked for again while its calls break a schema that the grammar could not bind in full."""
        answer = self._start(prompt, options).result()
        if not answer.problem or are_ids(prompt):
            return answer
        retry = Retry(as_messages(prompt, options.pop("system", None)), lambda _: answer.problem or None, CALL_TRIES)
        while not retry.passes(answer.text):
            answer = self._start(retry.messages, options).result()
        return answer

    @checked
    def ask_until(
        self, prompt: str | Sequence[Message], check: Check, tries: int = 3, **options: Unpack[AnswerOptions]
    ) -> Completion:
        """An answer that passes a check, asked for again with what was wrong: the soft way to a form.

        Args:
            prompt: a user's text, or messages.
            check: gives what is wrong with an answer's text, or None; `json_check` makes one from a JSON schema.
            tries: the most answers, the first included.
            options: as in `generate`.

        Raises:
            CheckError: the last answer did not pass either.
            EdgeLfmError: as `generate`.
        """
        system = options.pop("system", None)
        retry = Retry(as_messages(prompt, system), check, tries)
        while not retry.passes((answer := self._start(retry.messages, options).result()).text):
            pass
        return answer

    @checked
    def classify(
        self, prompt: Prompt, labels: Sequence[str], *, system: str | None = None, examples: Examples | None = None
    ) -> dict[str, float]:
        """How likely each label is as the whole answer to a prompt; the probabilities sum to 1.

        Args:
            prompt, system, examples: as in `generate`; the prompt, examples included, is computed once for all labels.
            labels: at least one, all different.

        Raises:
            EdgeLfmError: as `generate`.
        """
        if self.tokenizer is None or not labels or len(set(labels)) < len(labels) or not all(labels):
            raise UsageError("labels must be different texts", hint='give some, like ["yes", "no"]')
        if len(labels) > MAX_LABELS:
            raise UsageError(f"there are {len(labels)} labels", hint=f"give at most {MAX_LABELS}: each costs a step")
        ids = self.requests.prepare(prompt, {"system": system, "examples": examples}).token_ids
        end = (self.tokenizer.eos_ids or self.stop_ids)[:1]  # a turn's end, of the tokens that may end an answer
        answers = [[*self.tokenizer.encode(label), *end] for label in labels]
        return dict(zip(labels, softmax(np.array(self._scores(ids, answers))).tolist(), strict=True))

    @checked
    def complete(self, before: str, after: str = "", **options: Unpack[AnswerOptions]) -> Completion:
        """The text between two texts (fill-in-the-middle), as for code at a cursor; options as in `generate`.

        Raises:
            UsageError: the model has no markers for it.
        """
        return self._start(self.encode_gap(before, after), options).result()

    @checked
    def encode_gap(self, before: str, after: str = "") -> list[int]:
        """Token ids of a prompt to fill in what stands between two texts.

        Raises:
            UsageError: the model has no markers for it.
        """
        if self.tokenizer is None:
            raise UsageError(f"{self.folder} has no tokenizer.json", hint="copy it there")
        return self.tokenizer.encode_gap(before, after)

    @checked
    def session(self, system: str | None = None, tools: Tools | None = None, overflow: Overflow = "refuse") -> Session:
        """A conversation: it keeps its messages, and a turn computes only what is new.

        Args:
            system: the system message.
            tools: JSON schemas of functions that the model may call.
            overflow: when the context is full, "refuse", or "drop_oldest" turns.
        """
        return Session(self, system, tools, overflow)

    def restore(self, path: str | Path) -> Session:
        """A conversation that `Session.save` has written; it goes on without computing anything again.

        Raises:
            SessionFileError: the file is missing or damaged, or was saved with another model.
        """
        return Session.restore(self, check_path("path", path))

    def _scores(self, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> list[float]:
        """The log probabilities of answers. No more are queued than are made at a time: others have their turns."""
        jobs: list[Job[float]] = []
        values: list[float] = []
        try:
            for ids in answers:
                if len(jobs) - len(values) == self.parallel:
                    values.append(next(jobs[len(values)]))
                steps = partial(score, self.engine, prompt, ids)
                jobs.append(self.scheduler.submit(steps, after=jobs[0] if jobs else None))
            return values + [next(job) for job in jobs[len(values) :]]
        finally:
            for job in jobs:  # whoever is interrupted while waiting wants no more of it
                job.cancel()

    def _start(self, prompt: Prompt, options: AnswerOptions) -> Generation:
        return Generation(self.submit(self.requests.prepare(prompt, options)))

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
