"""What applications embed: load a model, get logits, generate text, hold a conversation.

Everything below (kernels, files, memory) is reached through `Model` and `Session`; nothing here knows
how a token is computed. Safe to call from several threads: steps of one model take turns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.config import ModelConfig, as_ids, read_json
from edge_lfm.devices.threads import choose_threads
from edge_lfm.engine.cached_routing import parse_routing
from edge_lfm.engine.generate import Timings, check_length, decode, prefill
from edge_lfm.engine.lookup import decode_with_lookup
from edge_lfm.engine.paged import kv_cache_bytes, paged_runner
from edge_lfm.engine.runner import Runner
from edge_lfm.engine.sampling import Sampler, SamplingOptions
from edge_lfm.errors import TemplateError, UsageError
from edge_lfm.kernels.library import load_kernels
from edge_lfm.memory.budget import Budget
from edge_lfm.memory.paging import PagingStats
from edge_lfm.memory.prefault import Prefault
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.sizes import measure_sizes
from edge_lfm.model.state import State, check_kv_dtype
from edge_lfm.text.template import ChatTemplate
from edge_lfm.text.tokenizer import Decoder, Tokenizer

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]
DEFAULT_CONTEXT = 32768
"""What the cards of LFM2 state; the configs' 128,000 is the positions' range."""
PAGED_CONTEXT = 4096
"""When experts are paged, every token of context takes memory from them: 20 KB a token in the 24B."""
_OVERHEAD_BYTES = 200 << 20  # interpreter, scratch, KV cache: a bench of the 24B peaked 0.20 GB above its file
_BYTES_PER_THREAD = 8 << 20
"""Weights that a token must read for each further thread to pay: 0.3 ms of one core, against 0.2 ms to wake and
join a thread. The demo model (3 MB a token) decodes 3 times faster with one thread than with two."""
_LOGIT_ROWS = 64
MOST_DRAFTS = 64


@dataclass(frozen=True)
class Completion:
    """A finished answer.

    finish_reason: "stop" (the model ended), or "length" (the limit or the context was reached).
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    timings: Timings

    @property
    def usage(self) -> dict[str, int]:
        """Token counts under OpenAI's names."""
        t = self.timings
        return {
            "prompt_tokens": t.prompt_tokens,
            "completion_tokens": t.completion_tokens,
            "total_tokens": t.prompt_tokens + t.completion_tokens,
            "cached_tokens": t.cached_tokens,
        }


@dataclass
class Generation:
    """An answer as it comes: iterate for text, close to stop, `result()` for the whole."""

    _pieces: Iterator[str]
    _finished: list[Completion] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)

    def result(self) -> Completion:
        """Run to the end; the whole answer.

        Raises:
            UsageError: the generation was closed before its end.
        """
        for _ in self._pieces:
            pass
        if not self._finished:
            raise UsageError("the generation was stopped before its end", hint="iterate it to its end")
        return self._finished[0]

    def close(self) -> None:
        """Stop generating."""
        close = getattr(self._pieces, "close", None)
        if close:
            close()


class Model:
    """A loaded model; a context manager. Made by `Model.load`."""

    def __init__(self, packed: PackedModel, runner: Runner, context: int, kv_dtype: str = "float16") -> None:
        self.packed, self._runner, self.context = packed, runner, context
        self.kv_dtype = kv_dtype
        self._prefault = Prefault(*packed.span) if runner.pager is None else None
        self.config: ModelConfig = packed.config
        self.folder = packed.folder
        has_text = (packed.folder / "tokenizer.json").exists()
        self.tokenizer = Tokenizer(packed.folder) if has_text else None
        self.template = ChatTemplate.load(packed.folder, self.tokenizer) if self.tokenizer else None
        generation = _optional_json(packed.folder / "generation_config.json")
        self.sampling = SamplingOptions.from_generation_config(generation)
        self.stop_ids = self._find_stop_ids(generation)

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        ram: str | int | None = None,
        threads: int | None = None,
        context: int | None = None,
        kv_dtype: str = "float16",
        routing: str = "exact",
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

        Raises:
            EdgeLfmError: the folder is no packed model, does not fit, or this processor cannot run it.
        """
        count = choose_threads(threads)
        check_kv_dtype(kv_dtype)
        cached_ratio = parse_routing(routing)
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
            if needed <= budget.nbytes:
                runner = Runner(packed, load_kernels(), count)
                return cls(packed, runner, context or min(DEFAULT_CONTEXT, positions), kv_dtype)
            if not packed.config.num_experts:
                raise budget.refuse(needed, "a smaller model, or a recipe with fewer bits")
            context = context or min(PAGED_CONTEXT, positions)
            kv_bytes = kv_cache_bytes(packed.config, context, kv_dtype)
            runner = paged_runner(packed, load_kernels(), count, budget, kv_bytes)
            runner.cached_ratio = cached_ratio
            return cls(packed, runner, context, kv_dtype)
        except BaseException:
            packed.close()
            raise

    @property
    def vocab(self) -> int:
        """Ids that can be generated: those of the tokenizer, without the padding rows of the head."""
        rows = self.config.vocab_size
        return min(rows, self.tokenizer.size) if self.tokenizer else rows

    @property
    def isa(self) -> str:
        """The ISA tier of the kernels in use."""
        return self._runner.kernels.isa.name

    @property
    def threads(self) -> int:
        return self._runner.team.count

    def change_budget(self, ram: str | int) -> None:
        """Give memory back while running, or take again what was given back; for models whose experts are paged.

        Raises:
            UsageError: the whole model is in memory, or `ram` is not a size.
            DoesNotFitError: the budget is too small.
        """
        self._runner.change_budget(Budget.of(ram))

    @property
    def paging(self) -> PagingStats | None:
        """Counters of expert paging, or None when the whole model is in memory."""
        return self._runner.pager.stats if self._runner.pager else None

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits [tokens, vocab_size] of a sequence from its start, float32.

        Raises:
            EdgeLfmError: the sequence is empty, too long, or has an id that the model does not know.
        """
        ids = np.asarray(token_ids, np.int64)
        if ids.ndim != 1 or not ids.size:
            raise UsageError("token_ids must be a non-empty list of numbers", hint="encode some text first")
        state = State(self.config, self.context, self.kv_dtype)
        parts = [
            self._runner.run(ids[n : n + _LOGIT_ROWS], state, all_logits=True) for n in range(0, len(ids), _LOGIT_ROWS)
        ]
        return np.concatenate(parts)

    def encode_prompt(self, prompt: Prompt, system: str | None = None, raw: bool = False) -> list[int]:
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
            return self.tokenizer.encode(prompt, bos=True, special=True)
        if self.template is None:
            raise TemplateError(f"{self.folder} has no chat template", hint="use raw text (--raw)")
        messages: list[Mapping[str, Any]] = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)  # type: ignore[arg-type]
        return self.template.encode(messages, self.tokenizer)

    def generate(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        raw: bool = False,
        max_tokens: int = 512,
        lookup: int = 0,
        progress: Callable[[int, int], object] | None = None,
        **sampling: Any,
    ) -> Generation:
        """Answer a prompt in a fresh state, as a stream of text.

        Args:
            prompt: a user's text, a list of messages, or token ids.
            system: a system message to put in front of a text.
            raw: take the text as it is, without the chat template.
            max_tokens: the most tokens to generate.
            lookup: the most tokens to draft a step from what stood in the text before; 0 drafts none. The answer
                is the same; it comes faster where it quotes the prompt.
            progress: called with the prompt tokens done and to do in all, after every chunk of the prefill.
            sampling: temperature, top_k, top_p, min_p, repeat_penalty, seed; default: the model's own.

        Raises:
            EdgeLfmError: an argument is out of range, or the prompt does not fit into the context.
        """
        return self.session().generate(
            prompt, system=system, raw=raw, max_tokens=max_tokens, lookup=lookup, progress=progress, **sampling
        )

    def session(self) -> Session:
        """A conversation with a state of its own."""
        return Session(self)

    def close(self) -> None:
        """End the threads and unmap the file."""
        if self._prefault is not None:
            self._prefault.close()
        self._runner.close()
        self.packed.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find_stop_ids(self, generation: Mapping[str, Any]) -> tuple[int, ...]:
        ids = {*as_ids(generation.get("eos_token_id")), *self.config.eos_token_ids}
        return tuple(sorted(ids | set(self.tokenizer.eos_ids if self.tokenizer else ())))


class Session:
    """One conversation: its state stays between answers, so that a turn computes only its new tokens."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._state = State(model.config, model.context, model.kv_dtype)
        self._fed: list[int] = []  # the ids that the state has seen
        self._answering = threading.Lock()

    def generate(
        self,
        prompt: Prompt,
        *,
        system: str | None = None,
        raw: bool = False,
        max_tokens: int = 512,
        lookup: int = 0,
        progress: Callable[[int, int], object] | None = None,
        **sampling: Any,
    ) -> Generation:
        """Answer the whole prompt (all messages so far); arguments as in `Model.generate`."""
        model = self.model
        if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
            raise UsageError(f"max_tokens is {max_tokens!r}", hint="it must be a whole number of at least 1")
        if isinstance(lookup, bool) or not isinstance(lookup, int) or not 0 <= lookup <= MOST_DRAFTS:
            raise UsageError(f"lookup is {lookup!r}", hint=f"it must be a whole number of 0..{MOST_DRAFTS}")
        sampler = Sampler(model.sampling.changed(**sampling), model.vocab)
        ids = model.encode_prompt(prompt, system, raw)
        check_length(len(ids), model.context)
        finished: list[Completion] = []

        def tokens(logits: NDArray[np.float32], seen: list[int], timings: Timings) -> Iterator[int]:
            steps = (model._runner, self._state, logits, sampler, seen, model.stop_ids, max_tokens, timings)
            return decode_with_lookup(*steps, lookup) if lookup else decode(*steps)

        return Generation(self._stream(ids, tokens, progress, finished), finished)

    def _stream(
        self,
        ids: list[int],
        tokens: Callable[[NDArray[np.float32], list[int], Timings], Iterator[int]],
        progress: Callable[[int, int], object] | None,
        finished: list[Completion],
    ) -> Iterator[str]:
        model, timings = self.model, Timings(prompt_tokens=len(ids))
        if not self._answering.acquire(blocking=False):
            raise UsageError("this session is still answering", hint="finish or close that generation first")
        # The state cannot go back: it serves a prompt that continues it, or it starts anew.
        if not (len(self._fed) < len(ids) and ids[: len(self._fed)] == self._fed):
            self._forget()
        timings.cached_tokens = len(self._fed)
        new, started = ids[len(self._fed) :], time.perf_counter()
        seen, decoder = list(ids), Decoder(model.tokenizer) if model.tokenizer else None
        try:
            logits = prefill(model._runner, self._state, new, progress)
            timings.prefill_s = time.perf_counter() - started
            text: list[str] = []
            for token in tokens(logits, seen, timings):
                piece = decoder.feed(token) if decoder and token not in model.stop_ids else ""
                if piece:
                    text.append(piece)
                    yield piece
            tail = decoder.finish() if decoder else ""
            if tail:
                text.append(tail)
                yield tail
            generated = tuple(seen[len(ids) :])
            reason = "stop" if generated[-1] in model.stop_ids else "length"
            finished.append(Completion("".join(text), generated, reason, timings))
        except GeneratorExit:  # closed between two tokens: the state is whole
            raise
        except BaseException:  # a step may have been cut short
            self._forget()
            raise
        finally:
            self._fed = seen[: self._state.position]
            self._answering.release()

    def _forget(self) -> None:
        self._state.reset()
        self._fed = []


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
