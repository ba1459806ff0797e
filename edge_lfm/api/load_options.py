"""Which model to load, and how: one record, made and checked once, for applications, the server and the verbs alike."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Literal

from edge_lfm.checking import check_path, check_whole, checked_record
from edge_lfm.engine.cached_routing import parse_routing
from edge_lfm.errors import UsageError
from edge_lfm.machine.processors import choose_threads
from edge_lfm.memory.budget import parse_size

MAX_PARALLEL = 256
MAX_TOKEN_WAIT = 3600.0


@checked_record
@dataclass(frozen=True)
class LoadOptions:
    """Which model to load, and how. What is None is decided by the model and the machine.

    Args:
        path: folder that `edge-lfm quantize` or `edge-lfm export --format onnx` made; default: the embedded demo model.
        ram: the most memory that the model may take, as bytes or like "4G"; default ("auto"): what is available.
            A mixture of experts that is larger is paged: the experts that are used most stay in memory.
        threads: the most that compute; default: the physical cores that this process may use. A step takes as many as
            pay for its work; the bits are the same with any number.
        context: the most tokens of a conversation; default: 32768, less where memory is short, or 4096 when experts
            are paged.
        kv_dtype: "float16", or "int8" for a KV cache of half the size.
        routing: "exact", or, for a model whose experts are paged, "cached:0.9" to take experts that are in memory
            in place of missing ones with a score up to a tenth higher: faster, and other answers.
        cache: the most memory, within `ram`, for what earlier prompts and conversations left, to be used again;
            default: a quarter of what the model leaves free, at most 2 GB; when experts are paged, one full
            context.
        parallel: answers that are made at a time, their tokens in the same steps; more wait. Default: as many as
            memory holds, with a full context each, at most 16; or 1 when experts are paged.
        token_wait: the most seconds that others' prompts add to an answer's next token; default 0.5. A prompt is read
            by at least a token in every other step, whatever that takes.
        draft: folder of a drafter that `edge-lfm quantize --target` made for this model: it drafts tokens that the
            model then verifies, several in a step. Answers are the same, and come faster where drafts are right.
            "demo": the embedded drafter of the demo model.
        paging: how experts that do not fit come into memory: "read" past the system's page cache, "map" through it,
            which other processes and the next start then share; "auto": mapped if the model nearly fits into what
            is available and that is as fast, as measured at the start.
        backend: "native": this project's kernels, for packed models; "onnxruntime", for exported ones. Default:
            what the folder is for.

    Raises:
        UsageError: a value is not of its type, or out of range.
    """

    path: str | Path | None = None
    _: KW_ONLY
    ram: str | int | None = None
    threads: int | None = None
    context: int | None = None
    kv_dtype: Literal["float16", "int8"] = "float16"
    routing: str = "exact"
    cache: str | int | None = None
    parallel: int | None = None
    token_wait: float = 0.5
    draft: str | Path | None = None
    paging: Literal["auto", "read", "map"] = "auto"
    backend: Literal["native", "onnxruntime"] | None = None

    def __post_init__(self) -> None:
        if self.path is not None:
            check_path("path", self.path)
        if self.draft is not None:
            check_path("draft", self.draft)
        if self.ram not in (None, "auto"):
            parse_size(self.ram)  # type: ignore[arg-type]
        if self.context is not None:
            check_whole("context", self.context, 1, 1 << 31)
        if self.parallel is not None:
            check_whole("parallel", self.parallel, 1, MAX_PARALLEL)
        if not 0 < self.token_wait <= MAX_TOKEN_WAIT:
            raise UsageError(
                f"token_wait is {self.token_wait:g}", hint=f"give seconds above 0, at most {MAX_TOKEN_WAIT:g}"
            )
        choose_threads(self.threads)
        parse_routing(self.routing)
        _ = self.cache_bytes

    @property
    def cache_bytes(self) -> int | None:
        """`cache` in bytes."""
        return parse_size(self.cache) if self.cache is not None else None

    @property
    def cached_ratio(self) -> float | None:
        """The ratio of `routing="cached:RATIO"`; None: exact."""
        return parse_routing(self.routing)
