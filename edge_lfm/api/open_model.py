"""An open model and the engine that answers for it: what `Model` and its conversations share.

Knows how a request is made, queued and stored; what applications call stands in `model.py` and `session.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, Unpack

from edge_lfm.api.loading import Loaded
from edge_lfm.api.options import AnswerOptions, Prompt
from edge_lfm.api.requests import Requests
from edge_lfm.architectures.reader import as_ids
from edge_lfm.checking import checked
from edge_lfm.engine.answering import Engine, Events, Request, answer
from edge_lfm.engine.gathering import Room
from edge_lfm.engine.grammar import GrammarCompiler
from edge_lfm.engine.pool import SequencePool
from edge_lfm.engine.sampling import SamplingOptions
from edge_lfm.engine.scheduler import Job, Scheduler
from edge_lfm.engine.session_file import load_sequence, save_sequence
from edge_lfm.errors import UsageError
from edge_lfm.formats.strict import read_json
from edge_lfm.memory.plan import LOGIT_ROWS
from edge_lfm.memory.prefault import Prefault
from edge_lfm.model.packed_model import PackedModel
from edge_lfm.model.state import State
from edge_lfm.shape import Shape
from edge_lfm.text.dialects.marks import TURN_STARTS
from edge_lfm.text.template import ChatTemplate
from edge_lfm.text.tokenizer import Tokenizer


class OpenModel:
    """Files, backend, tokenizer, engine and scheduler of one model."""

    def __init__(self, loaded: Loaded) -> None:
        if not isinstance(loaded, Loaded):
            raise UsageError("a model is opened by Model.load", hint='write Model.load("folder")')
        files, backend, context = loaded.files, loaded.backend, loaded.context
        self.files, self.backend, self.context, self.kv_dtype = files, backend, context, loaded.kv_dtype
        self._prefault: Prefault | None = None
        if isinstance(files, PackedModel) and backend.pager is None:
            self._prefault = Prefault(*files.span)
        self.shape: Shape = files.shape
        self.folder = files.folder
        has_text = (self.folder / "tokenizer.json").exists()
        self.tokenizer = Tokenizer(self.folder) if has_text else None
        self.template = ChatTemplate.load(self.folder, self.tokenizer) if self.tokenizer else None
        generation = _optional_json(self.folder / "generation_config.json")
        self.sampling = SamplingOptions.from_generation_config(generation)
        # Beside a row of each answer, so that all stay within what the memory plan counts.
        room = Room(backend.chunk, max(LOGIT_ROWS // 4, LOGIT_ROWS - loaded.parallel))
        self.scheduler = Scheduler(
            loaded.parallel, backend.run, room, loaded.token_wait, lambda: backend.experts, backend.draft
        )
        self.engine = Engine(
            backend,
            SequencePool(self.new_state, loaded.cache_bytes),
            self.tokenizer,
            self.vocab,
            self._find_stop_ids(generation),
            self.tokenizer.first_id(TURN_STARTS) if self.tokenizer else None,
            self._make_grammars(generation),
        )
        self.requests = Requests(self.engine, self.template, self.sampling, context, self.shape.vocab, str(self.folder))

    @property
    def vocab(self) -> int:
        """Ids that can be generated: those of the tokenizer, without the padding rows of the head."""
        rows = self.shape.vocab
        return min(rows, self.tokenizer.size) if self.tokenizer else rows

    def new_state(self) -> State:
        """The state of a new sequence."""
        return self.backend.new_state(self.context, self.kv_dtype)

    @checked
    def prepare(self, prompt: Prompt, **options: Unpack[AnswerOptions]) -> Request:
        """A checked request, for `submit`; options as in `Model.generate`.

        Raises:
            EdgeLfmError: as `Model.generate`.
        """
        return self.requests.prepare(prompt, options)

    @checked
    def submit(
        self,
        request: Request,
        holder: Any = None,
        queue_limit: int | None = None,
        after: Any = None,
    ) -> Job[Events]:
        """Queue a request; its events come from the job that is given back.

        Args:
            holder: a weak reference to the conversation whose sequence the answer continues.
            queue_limit: how many requests may wait; None: any number.
            after: the job of another request with the same prompt, which is to read it first.

        Raises:
            BusyError: `queue_limit` requests are waiting already.
        """
        return self.scheduler.submit(lambda job: answer(self.engine, request, job, holder), queue_limit, after)

    def save_sequence(self, path: Path, holder: Any, extra: Any) -> None:
        """Write what was computed for a conversation, and `extra`. Raises as `session_file.save_sequence`."""
        pool, fingerprint = self.engine.pool, self.files.fingerprint
        self.scheduler.call(lambda: save_sequence(path, pool.find(holder), fingerprint, extra))

    def read_sequence(self, path: Path) -> tuple[Any, Callable[[Any], None]]:
        """A saved file's extra; what makes a conversation (a weak reference) the owner of what was computed for it.

        Raises:
            SessionFileError: as `session_file.load_sequence`.
        """
        sequence, extra = load_sequence(path, self.new_state(), self.files.fingerprint, self.shape.vocab)

        def own(holder: Any) -> None:
            if sequence is not None:
                self.scheduler.call(lambda: self.engine.pool.give(sequence, holder))

        return extra, own

    def close(self) -> None:
        """End what is running, the threads, and unmap the file."""
        if self._prefault is not None:
            self._prefault.close()
        self.scheduler.close()
        self.backend.close()
        self.files.close()

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise UsageError(
            "a model cannot be pickled or copied", hint="pass its LoadOptions on, and load it there with Model.open"
        )

    def _make_grammars(self, generation: Mapping[str, Any]) -> GrammarCompiler | None:
        if self.tokenizer is None:
            return None
        return GrammarCompiler(self.tokenizer.as_json, self.vocab, self._find_stop_ids(generation))

    def _find_stop_ids(self, generation: Mapping[str, Any]) -> tuple[int, ...]:
        ids = {*as_ids(generation.get("eos_token_id")), *self.shape.eos}
        channels = self.template.dialect.channels if self.template is not None else None
        if self.tokenizer is not None and channels is not None:  # generation_config.json may not tell of all
            ids |= {
                i for mark in channels.ends if mark != channels.end for i in as_ids(self.tokenizer.special_id(mark))
            }
        return tuple(sorted(ids | set(self.tokenizer.eos_ids if self.tokenizer else ())))


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
