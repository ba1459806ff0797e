"""A loaded model: answers, logits, conversations, and what it costs.

Nothing here knows how a token is computed. Safe to use from several threads and from asyncio: one engine thread does
the work, and requests take turns.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.api.answering import Engine, Events, Request, answer
from edge_lfm.api.events import Completion
from edge_lfm.api.fitting import check_overflow, drop_oldest
from edge_lfm.api.generation import AsyncGeneration, Generation
from edge_lfm.api.session import Session
from edge_lfm.config import ModelConfig, as_ids, read_json
from edge_lfm.devices.threads import choose_threads
from edge_lfm.engine.cached_routing import parse_routing
from edge_lfm.engine.call_grammar import call_grammar, chosen_tool, functions_of
from edge_lfm.engine.generate import check_length
from edge_lfm.engine.grammar import Grammar, GrammarCompiler, grammar_of
from edge_lfm.engine.paged import kv_cache_bytes, paged_runner
from edge_lfm.engine.pool import PoolStats, SequencePool
from edge_lfm.engine.runner import Runner
from edge_lfm.engine.sampling import SamplingOptions
from edge_lfm.engine.scheduler import Job, Scheduler
from edge_lfm.engine.session_file import load_sequence
from edge_lfm.errors import TemplateError, UsageError
from edge_lfm.kernels.library import load_kernels
from edge_lfm.memory.budget import Budget, parse_size
from edge_lfm.memory.paging import PagingStats
from edge_lfm.memory.prefault import Prefault
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.model.state import State, check_kv_dtype
from edge_lfm.text.answer import CALL_END
from edge_lfm.text.template import ChatTemplate
from edge_lfm.text.tokenizer import Tokenizer

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]
DEFAULT_CONTEXT = 32768
"""What the cards of LFM2 state; the configs' 128,000 is the positions' range."""
PAGED_CONTEXT = 4096
"""When experts are paged, every token of context takes memory from them: 20 KB a token in the 24B."""
DEFAULT_PARALLEL = 4
MOST_DRAFTS = 64
MOST_TOP_LOGPROBS = 20
_MOST_STOPS, _MOST_STOP_TEXT = 16, 500
_OVERHEAD_BYTES = 200 << 20  # interpreter, scratch, KV cache: a bench of the 24B peaked 0.20 GB above its file
_BYTES_PER_THREAD = 8 << 20
"""Weights that a token must read for each further thread to pay: 0.3 ms of one core, against 0.2 ms to wake and
join a thread. The demo model (3 MB a token) decodes 3 times faster with one thread than with two."""
_LOGIT_ROWS = 64
_MOST_CACHE_BYTES = 2 << 30
_DRY_BREAKERS = ("\n", ":", '"', "*")


class Model:
    """A loaded model; a context manager. Made by `Model.load`."""

    def __init__(
        self,
        packed: PackedModel,
        runner: Runner,
        context: int,
        kv_dtype: str = "float16",
        cache_bytes: int = 0,
        parallel: int = 1,
    ) -> None:
        self.packed, self._runner, self.context, self.kv_dtype = packed, runner, context, kv_dtype
        self._prefault = Prefault(*packed.span) if runner.pager is None else None
        self.config: ModelConfig = packed.config
        self.folder = packed.folder
        has_text = (packed.folder / "tokenizer.json").exists()
        self.tokenizer = Tokenizer(packed.folder) if has_text else None
        self.template = ChatTemplate.load(packed.folder, self.tokenizer) if self.tokenizer else None
        generation = _optional_json(packed.folder / "generation_config.json")
        self.sampling = SamplingOptions.from_generation_config(generation)
        self.scheduler = Scheduler(parallel)
        self.engine = Engine(
            runner,
            SequencePool(lambda: State(self.config, context, kv_dtype), cache_bytes),
            self.tokenizer,
            self.vocab,
            self._find_stop_ids(generation),
            self.tokenizer.special_id("<|im_start|>") if self.tokenizer else None,
            self._make_grammars(generation),
        )

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        ram: str | int | None = None,
        threads: int | None = None,
        context: int | None = None,
        kv_dtype: str = "float16",
        routing: str = "exact",
        cache: str | int | None = None,
        parallel: int | None = None,
    ) -> Model:
        """Open a packed model; by default the embedded demo model.

        Args:
            path: folder that `edge-lfm quantize` made.
            ram: the most memory that the model may take, as bytes or like "4G"; default ("auto"): what is available.
                A mixture of experts that is larger is paged: the experts that are used most stay in memory.
            threads: default: the physical cores that this process may use, fewer for a very small model.
            context: the most tokens of a conversation; default: 32768, or 4096 when experts are paged.
            kv_dtype: "float16", or "int8" for a KV cache of half the size.
            routing: "exact", or, for a model whose experts are paged, "cached:0.9" to take experts that are in memory
                in place of missing ones with a score up to a tenth higher: faster, and other answers.
            cache: the most memory, within `ram`, for what earlier prompts and conversations left, to be used again;
                default: a quarter of what the model leaves free, at most 2 GB; when experts are paged, one full
                context.
            parallel: answers that take turns token by token; more wait. Default: 4, or 1 when experts are paged.

        Raises:
            EdgeLfmError: the folder is no packed model, does not fit, or this processor cannot run it.
        """
        count = choose_threads(threads)
        check_kv_dtype(kv_dtype)
        cached_ratio = parse_routing(routing)
        if parallel is not None:
            _check_whole("parallel", parallel, 1, 256)
        cache_bytes = parse_size(cache) if cache is not None else None
        if path is None:
            from edge_lfm.demo import packed_demo

            path = packed_demo()
        packed = PackedModel(Path(path))
        try:
            positions = packed.config.max_position_embeddings
            if context is not None and not 1 <= context <= positions:
                raise UsageError(f"a context of {context}", hint=f"this model can do 1..{positions}")
            if threads is None:
                sizes = measure_sizes(packed.config, list(packed.pieces.values()))
                count = min(count, 1 + sizes.bytes_per_token // _BYTES_PER_THREAD)
            budget, needed = Budget.of(ram), packed.nbytes + _OVERHEAD_BYTES
            if needed + (cache_bytes or 0) <= budget.nbytes:
                if cache_bytes is None:
                    cache_bytes = min(_MOST_CACHE_BYTES, (budget.nbytes - needed) // 4)
                runner = Runner(packed, load_kernels(), count)
                context = context or min(DEFAULT_CONTEXT, positions)
                return cls(packed, runner, context, kv_dtype, cache_bytes, parallel or DEFAULT_PARALLEL)
            if not packed.config.num_experts:
                raise budget.refuse(needed + (cache_bytes or 0), "a smaller model, or a recipe with fewer bits")
            context = context or min(PAGED_CONTEXT, positions)
            kv_bytes = kv_cache_bytes(packed.config, context, kv_dtype)
            cache_bytes = kv_bytes if cache_bytes is None else cache_bytes
            fixed = kv_bytes * (parallel or 1) + cache_bytes
            runner = paged_runner(packed, load_kernels(), count, budget, fixed)
            runner.cached_ratio = cached_ratio
            return cls(packed, runner, context, kv_dtype, cache_bytes, parallel or 1)
        except BaseException:
            packed.close()
            raise

    @property
    def vocab(self) -> int:
        """Ids that can be generated: those of the tokenizer, without the padding rows of the head."""
        rows = self.config.vocab_size
        return min(rows, self.tokenizer.size) if self.tokenizer else rows

    @cached_property
    def _breakers(self) -> frozenset[int]:
        """Tokens that DRY does not reach across: found when first needed, in 0.3 s at 65,536 entries."""
        return self.tokenizer.ids_with(_DRY_BREAKERS) if self.tokenizer else frozenset()

    @property
    def isa(self) -> str:
        """The ISA tier of the kernels in use."""
        return self._runner.kernels.isa.name

    @property
    def threads(self) -> int:
        return self._runner.team.count

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return self.engine.stop_ids

    @property
    def paging(self) -> PagingStats | None:
        """Counters of expert paging, or None when the whole model is in memory."""
        return self._runner.pager.stats if self._runner.pager else None

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
        self._runner.change_budget(Budget.of(ram))

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits [tokens, vocab_size] of a sequence from its start, float32.

        Raises:
            EdgeLfmError: the sequence is empty, too long, or has an id that the model does not know.
        """
        ids = np.asarray(token_ids, np.int64)
        if ids.ndim != 1 or not ids.size:
            raise UsageError("token_ids must be a non-empty list of numbers", hint="encode some text first")
        state = State(self.config, self.context, self.kv_dtype)
        chunks = [ids[n : n + _LOGIT_ROWS] for n in range(0, len(ids), _LOGIT_ROWS)]
        call, run = self.scheduler.call, self._runner.run
        return np.concatenate([call(lambda chunk=chunk: run(chunk, state, all_logits=True)) for chunk in chunks])  # type: ignore[misc]

    def encode_prompt(
        self, prompt: Prompt, system: str | None = None, raw: bool = False, tools: Tools | None = None
    ) -> list[int]:
        """Token ids of a prompt: a user's text, messages, plain text if `raw`, or ids as they are.

        Raises:
            EdgeLfmError: the model has no tokenizer or template, or the template refuses the messages.
        """
        if not isinstance(prompt, str) and len(prompt) and isinstance(prompt[0], int):
            return [int(i) for i in prompt]  # type: ignore[arg-type]
        if self.tokenizer is None:
            raise UsageError(f"{self.folder} has no tokenizer.json", hint="give token ids, or copy the file there")
        if raw:
            if not isinstance(prompt, str):
                raise UsageError("a raw prompt is a text", hint="give a string")
            written = bool(self.tokenizer.bos) and prompt.startswith(self.tokenizer.bos)
            return self.tokenizer.encode(prompt, bos=not written, special=True)
        if self.template is None:
            raise TemplateError(f"{self.folder} has no chat template", hint="use raw text (--raw)")
        return self.template.encode(_as_messages(prompt, system), self.tokenizer, tools=tools)

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
        state = State(self.config, self.context, self.kv_dtype)
        sequence, extra = load_sequence(Path(path), state, self.packed.fingerprint, self.config.vocab_size)
        session = Session.from_saved(self, extra, str(path))
        if sequence is not None:
            self.scheduler.call(lambda: self.engine.pool.give(sequence, weakref.ref(session)))
        return session

    def prepare(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        raw: bool = False,
        tools: Tools | None = None,
        tool_choice: Any = "auto",
        overflow: str = "refuse",
        **options: Any,
    ) -> Request:
        """A checked request, for `submit`; arguments as in `generate`."""
        tools = None if tool_choice == "none" else tools
        dropped, ids = 0, self.encode_prompt(prompt, system, raw, tools)
        if len(ids) >= self.context and check_overflow(overflow) == "drop_oldest" and not raw:
            room = self.context - min(options.get("max_tokens") or 512, self.context // 4)
            messages = _as_messages(prompt, system)
            _, ids, dropped = drop_oldest(messages, lambda m: self.encode_prompt(m, tools=tools), room)
        options |= {"tools": tools, "tool_choice": tool_choice, "markers": not raw, "dropped_messages": dropped}
        return self.request(ids, **options)

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
        **sampling: Any,
    ) -> Request:
        """A checked request for a prompt's token ids. `max_tokens` None: until the context is full."""
        grammar = grammar_of(schema, regex, lark, choices)
        if grammar is not None:
            if self.engine.grammars is None:
                raise UsageError(f"{self.folder} has no tokenizer.json", hint="grammars need the model's tokenizer")
            self.engine.grammars.compile(grammar)
        functions = [] if tool_choice == "none" else functions_of(tools or [])
        if functions and grammar is not None:
            raise UsageError("tools and a grammar exclude each other", hint="give one of them, or tool_choice none")
        calls, must_call = self._calls(functions, tool_choice, parallel_tool_calls)
        if reasoning_budget is not None:
            _check_whole("reasoning_budget", reasoning_budget, 0, 1 << 31)
        check_length(len(token_ids), self.context)
        if max_tokens is None:
            max_tokens = self.context - len(token_ids) + 1
        _check_whole("max_tokens", max_tokens, 1, 1 << 31)
        _check_whole("lookup", lookup, 0, MOST_DRAFTS)
        if logprobs is not None:
            _check_whole("logprobs", logprobs, 0, MOST_TOP_LOGPROBS)
        options = self.sampling.changed(**sampling)
        return Request(
            tuple(token_ids),
            options,
            max_tokens,
            _check_stops(stop),
            logprobs,
            prompt_logprobs,
            lookup,
            markers,
            {str(f["name"]): _parameters(f) for f in functions},
            self._breakers if options.dry_multiplier else frozenset(),
            grammar,
            calls,
            must_call,
            reasoning_budget,
            dropped_messages,
        )

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
        self._runner.close()
        self.packed.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _calls(self, functions: list[Mapping[str, Any]], choice: Any, parallel: bool) -> tuple[Grammar | None, bool]:
        """The grammar of calls to these functions, and whether the answer must be calls."""
        wanted = chosen_tool(choice, functions)
        must = choice not in (None, "auto", "none")
        grammars, tokenizer = self.engine.grammars, self.tokenizer
        end = tokenizer.special_id(CALL_END) if tokenizer else None
        if not functions or grammars is None or end is None or not (grammars.available or must):
            if must:
                raise UsageError("tool_choice needs tools, and a model that knows calls", hint="give tools")
            return None, False
        grammar = call_grammar([wanted] if wanted is not None else functions, end, parallel)
        grammars.compile(grammar)
        return grammar, must

    def _make_grammars(self, generation: Mapping[str, Any]) -> GrammarCompiler | None:
        if self.tokenizer is None:
            return None
        return GrammarCompiler(self.folder / "tokenizer.json", self.vocab, self._find_stop_ids(generation))

    def _find_stop_ids(self, generation: Mapping[str, Any]) -> tuple[int, ...]:
        ids = {*as_ids(generation.get("eos_token_id")), *self.config.eos_token_ids}
        return tuple(sorted(ids | set(self.tokenizer.eos_ids if self.tokenizer else ())))


def _as_messages(prompt: Prompt, system: str | None) -> list[Mapping[str, Any]]:
    messages: list[Mapping[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)  # type: ignore[arg-type]
    return messages


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        shown = "a huge number" if isinstance(value, int) and abs(value) > 10**20 else f"{value!r:.60}"
        raise UsageError(f"{name} is {shown}", hint=f"it must be a whole number of {least}..{most}")


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


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
