"""A loaded model: answers, logits, conversations, and what it costs.

Nothing here knows how a token is computed. Safe to use from several threads and from asyncio: one engine thread does
the work, and requests take turns.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.api.asking_again import Check, ask_until
from edge_lfm.api.checking import check_names, check_type
from edge_lfm.api.generation import AsyncGeneration, Generation
from edge_lfm.api.load_options import LoadOptions, called_as
from edge_lfm.api.loading import Loaded, load_model
from edge_lfm.api.requests import Examples, Prompt, Requests, Tools
from edge_lfm.api.session import Session
from edge_lfm.config import ModelConfig, as_ids, read_json
from edge_lfm.engine.answering import Engine, Events, Request, answer, score
from edge_lfm.engine.events import Completion
from edge_lfm.engine.feeds import Feed
from edge_lfm.engine.grammar import GrammarCompiler
from edge_lfm.engine.pool import PoolStats, SequencePool
from edge_lfm.engine.sampling import SamplingOptions
from edge_lfm.engine.sampling_steps import softmax
from edge_lfm.engine.scheduler import Job, Scheduler
from edge_lfm.engine.session_file import load_sequence
from edge_lfm.errors import UsageError
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.paging import PagingStats
from edge_lfm.memory.prefault import Prefault
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State
from edge_lfm.text.template import ChatTemplate
from edge_lfm.text.tokenizer import Tokenizer

_LOGIT_ROWS = 64


class Model:
    """A loaded model; a context manager. Made by `Model.load`."""

    def __init__(self, loaded: Loaded) -> None:
        files, backend, context = loaded.files, loaded.backend, loaded.context
        self.files, self.backend, self.context, self.kv_dtype = files, backend, context, loaded.kv_dtype
        self._prefault: Prefault | None = None
        if isinstance(files, PackedModel) and backend.pager is None:
            self._prefault = Prefault(*files.span)
        self.config: ModelConfig = files.config
        self.folder = files.folder
        has_text = (self.folder / "tokenizer.json").exists()
        self.tokenizer = Tokenizer(self.folder) if has_text else None
        self.template = ChatTemplate.load(self.folder, self.tokenizer) if self.tokenizer else None
        generation = _optional_json(self.folder / "generation_config.json")
        self.sampling = SamplingOptions.from_generation_config(generation)
        self.scheduler = Scheduler(loaded.parallel, loaded.backend.run)
        self.engine = Engine(
            backend,
            SequencePool(self._new_state, loaded.cache_bytes),
            self.tokenizer,
            self.vocab,
            self._find_stop_ids(generation),
            self.tokenizer.special_id("<|im_start|>") if self.tokenizer else None,
            self._make_grammars(generation),
        )
        self.requests = Requests(self.engine, self.template, self.sampling, context, str(self.folder))

    @classmethod
    @called_as(LoadOptions)
    def load(cls, *path: Any, **options: Any) -> Model:
        """Open a packed model; by default the embedded demo model. Arguments: those of `LoadOptions`.

        Raises:
            UsageError: an option is unknown, not of its type, or out of range.
            EdgeLfmError: the folder is no packed model, does not fit, or this processor cannot run it.
        """
        check_names(options, inspect.signature(LoadOptions).parameters, "option of load")
        if len(path) > 1 or (path and "path" in options):
            raise UsageError("load takes one path", hint='name the options, as in ram="4G"')
        return cls.open(LoadOptions(*path, **options))

    @classmethod
    def open(cls, options: LoadOptions) -> Model:
        """As `load`, with options that are made already."""
        check_type("options", options, LoadOptions)
        loaded = load_model(options)
        try:
            return cls(loaded)
        except BaseException:
            loaded.close()
            raise

    def _new_state(self) -> State:
        return self.backend.new_state(self.context, self.kv_dtype)

    @property
    def vocab(self) -> int:
        """Ids that can be generated: those of the tokenizer, without the padding rows of the head."""
        rows = self.config.vocab_size
        return min(rows, self.tokenizer.size) if self.tokenizer else rows

    @property
    def isa(self) -> str:
        """The ISA tier of the kernels in use, or the name of another runtime."""
        return self.backend.name

    @property
    def threads(self) -> int:
        return self.backend.threads

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

    def change_budget(self, ram: str | int) -> None:
        """Give memory back while running, or take again what was given back; for models whose experts are paged.

        Raises:
            UsageError: the whole model is in memory, or `ram` is not a size.
            DoesNotFitError: the budget is too small.
        """
        self.backend.change_budget(Budget.of(ram))

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits [tokens, vocab_size] of a sequence from its start, float32.

        Raises:
            EdgeLfmError: the sequence is empty, too long, or has an id that the model does not know.
        """
        ids = np.asarray(token_ids, np.int64)
        if ids.ndim != 1 or not ids.size:
            raise UsageError("token_ids must be a non-empty list of numbers", hint="encode some text first")
        state = self._new_state()
        chunks = [ids[n : n + _LOGIT_ROWS] for n in range(0, len(ids), _LOGIT_ROWS)]
        call, run = self.scheduler.call, self.backend.run
        feeds = [Feed(state, chunk, "all") for chunk in chunks]
        return np.concatenate([call(lambda feed=feed: run([feed])[0]) for feed in feeds])  # type: ignore[misc]

    def encode_prompt(
        self, prompt: Prompt, system: str | None = None, raw: bool = False, tools: Tools | None = None
    ) -> list[int]:
        """Token ids of a prompt: a user's text, messages, plain text if `raw`, or ids as they are.

        Raises:
            EdgeLfmError: the model has no tokenizer or template, or the template refuses the messages.
        """
        return self.requests.encode(prompt, system, raw, tools)

    def generate(self, prompt: Prompt, **options: Any) -> Completion:
        """Answer a prompt; the whole answer. What an earlier prompt has in common with it is not computed again.

        Args:
            prompt: a user's text, a list of messages, or token ids.
            system: a system message to put in front of a text.
            raw: take the text as it is, without the chat template.
            tools: functions that the model may call: {"name", "description", "parameters": a JSON schema}, or in
                OpenAI's wrapping. A call that begins follows its schema to the end (with the extra `grammar`).
            tool_choice: "auto", "none", "required", or the name of the tool to be called.
            parallel_tool_calls: whether one answer may have several calls; default True.
            reasoning_budget: the most tokens that a model which thinks first may think.
            max_tokens: the most tokens to generate; default 512.
            stop: texts that end the answer, and are not part of it.
            schema: a JSON schema, or a class with `model_json_schema` (Pydantic), that the answer must satisfy.
            regex, lark, choices: an expression, a grammar, or texts that the answer must match instead.
            documents: texts to answer from: {"id", "title", "text"}, or bare texts. cite: ask for
                citations as [id]; brackets then hold ids that exist only. trim_documents: cut them to one length that
                fits, and say which.
            examples: (input, output) pairs that show what is wanted, as turns before the conversation.
            logprobs: tell each token's log probability, and those of so many most likely ones.
            lookup: the most tokens to draft a step from what stood in the text before; 0 drafts none. The answer
                is the same; it comes faster where it quotes the prompt.
            overflow: what to do with messages that do not fit into the context: "refuse", or "drop_oldest".
            sampling: the other names are those of `SamplingOptions`; default: the model's own.

        Raises:
            EdgeLfmError: an argument is out of range, or the prompt does not fit into the context.
        """
        return self.stream(prompt, **options).result()

    def stream(self, prompt: Prompt, **options: Any) -> Generation:
        """As `generate`, with the answer as it comes: iterate it for events, or its `texts()`."""
        return Generation(self.submit(self.prepare(prompt, **options)))

    async def generate_async(self, prompt: Prompt, **options: Any) -> Completion:
        """As `generate`, for asyncio; cancelling the task stops the engine."""
        return await self.stream_async(prompt, **options).result()

    def stream_async(self, prompt: Prompt, **options: Any) -> AsyncGeneration:
        """As `stream`, for asyncio."""
        return AsyncGeneration(self.submit(self.prepare(prompt, **options)))

    def chat(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> Completion:
        """As `generate`, for a list of messages."""
        return self.generate(messages, **options)

    def session(self, system: str | None = None, tools: Tools | None = None, overflow: str = "refuse") -> Session:
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
        state = self._new_state()
        sequence, extra = load_sequence(Path(path), state, self.files.fingerprint, self.config.vocab_size)
        session = Session.from_saved(self, extra, str(path))
        if sequence is not None:
            self.scheduler.call(lambda: self.engine.pool.give(sequence, weakref.ref(session)))
        return session

    def prepare(self, prompt: Prompt, **options: Any) -> Request:
        """A checked request, for `submit`; arguments as in `generate`."""
        return self.requests.prepare(prompt, **options)

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
        ids = self.prepare(prompt, system=system, examples=examples).token_ids
        end = (self.tokenizer.eos_ids or self.stop_ids)[:1]  # a turn's end, of the tokens that may end an answer
        answers = [[*self.tokenizer.encode(label), *end] for label in labels]
        job: Job[float] = self.scheduler.submit(lambda job: score(self.engine, ids, answers, job))
        values = np.array(list(job))
        return dict(zip(labels, softmax(values).tolist(), strict=True))

    def ask_until(self, prompt: Prompt, check: Check, tries: int = 3, **options: Any) -> Completion:
        """An answer that passes a check, asked for again with what was wrong: the soft way to a form.

        Args and errors: as `asking_again.ask_until`; `json_check` there makes a check from a JSON schema.
        """
        return ask_until(self, prompt, check, tries, **options)

    def complete(self, before: str, after: str = "", **options: Any) -> Completion:
        """The text between two texts (fill-in-the-middle), as for code at a cursor; options as in `generate`.

        Raises:
            UsageError: the model has no markers for it.
        """
        if self.tokenizer is None:
            raise UsageError(f"{self.folder} has no tokenizer.json", hint="copy it there")
        return self.generate(self.tokenizer.encode_gap(before, after), **options)

    def submit(self, request: Request, session: Session | None = None, queue_limit: int | None = None) -> Job[Events]:
        """Queue a request; its events come from the job that is given back.

        Raises:
            BusyError: `queue_limit` requests are waiting already.
        """
        holder = weakref.ref(session) if session is not None else None
        return self.scheduler.submit(lambda job: answer(self.engine, request, job, holder), queue_limit)

    def close(self) -> None:
        """End what is running, the threads, and unmap the file."""
        if self._prefault is not None:
            self._prefault.close()
        self.scheduler.close()
        self.backend.close()
        self.files.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_grammars(self, generation: Mapping[str, Any]) -> GrammarCompiler | None:
        if self.tokenizer is None:
            return None
        return GrammarCompiler(self.tokenizer.as_json, self.vocab, self._find_stop_ids(generation))

    def _find_stop_ids(self, generation: Mapping[str, Any]) -> tuple[int, ...]:
        ids = {*as_ids(generation.get("eos_token_id")), *self.config.eos_token_ids}
        return tuple(sorted(ids | set(self.tokenizer.eos_ids if self.tokenizer else ())))


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
