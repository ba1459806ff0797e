"""A sequence on disk: tokens, keys and values, conv states, and the places to go back to, in one safetensors file.

What a drafter keeps of the tokens is in it too, for the same drafter.

Of sliding layers that keep a ring it has the window before the end and before every place. Files of states that kept
all keys and values have those instead; where a state has rings, the windows are taken from them. Written aside and
renamed, every tensor with a checksum; read only for the model, the layout and the dtype that it was written for.
Whatever else the caller wants to keep goes along as JSON. Knows no messages.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_lfm.engine.sequence import TokenSequence
from edge_lfm.errors import ModelFileError, OutputError, SessionFileError
from edge_lfm.formats.packed import PackedFile, PackedWriter, TensorSpec, sync_folder
from edge_lfm.kernels.spec.layout import LAYOUT_VERSION
from edge_lfm.memory.scratch import DRAFT_CHUNK
from edge_lfm.model.kv_cache import places
from edge_lfm.model.state import Checkpoint, DraftCache, State

_KEY = "edge_lfm_session"
_MAX_POSITIONS = 1 << 24


def save_sequence(path: Path, sequence: TokenSequence | None, model: str, extra: Any) -> None:
    """Write a sequence, or none of it, and `extra` (anything that JSON can carry).

    Raises:
        OutputError: the file cannot be written; what stood there before stays.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder", hint="name a file")
    draft = _describe_draft(sequence)
    arrays = dict(_arrays(sequence)) if sequence is not None else {}
    if sequence is not None and sequence.state.draft is not None and draft is not None:
        arrays |= _draft_arrays(sequence.state.draft)
    header = {
        "model": model,
        "layout": LAYOUT_VERSION,
        "kv": sequence.state.kv_dtype if sequence is not None else None,
        "tokens": len(sequence.ids) if sequence is not None else 0,
        "rings": sequence is not None and sequence.state.ring > 0,
        "checkpoints": sorted(_lasting(sequence)) if sequence is not None else [],
        "draft": draft,
        "extra": extra,
    }
    specs = [TensorSpec(name, "U8", (values.nbytes,)) for name, values in arrays.items()] or [
        TensorSpec("empty", "U8", (1,))
    ]
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with PackedWriter(partial, specs, {_KEY: json.dumps(header)}) as writer:
            for n, values in enumerate(arrays.values()):
                writer.write(n, values)
            if not arrays:
                writer.write(0, np.zeros(1, np.uint8))
        os.replace(partial, path)
        sync_folder(path.absolute().parent)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}", hint="check the folder") from None
    finally:
        partial.unlink(missing_ok=True)


def load_sequence(path: Path, state: State, model: str, vocab: int) -> tuple[TokenSequence | None, Any]:
    """A sequence in a fresh state, and the extra. None: there is nothing to go on from.

    Raises:
        SessionFileError: the file is missing or damaged, or was saved with another model or version.
        ContextOverflowError: the state's context is too small.
    """
    try:
        with PackedFile(path) as file:
            return _read(file, path, state, model, vocab)
    except ModelFileError as error:
        raise SessionFileError(
            f"{path} is not a sound session file: {error.message}", hint="start a new conversation"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SessionFileError(f"{path} is not a session file: {error}", hint="start a new conversation") from None


def _read(file: PackedFile, path: Path, state: State, model: str, vocab: int) -> tuple[TokenSequence | None, Any]:
    header = json.loads(file.file.metadata[_KEY])
    if header["model"] != model:
        raise SessionFileError(f"{path} was saved with another model", hint="load that model, or start anew")
    if header["layout"] != LAYOUT_VERSION:
        raise SessionFileError(
            f"{path} has layout {header['layout']}, this version {LAYOUT_VERSION}", hint="start a new conversation"
        )
    damaged = [tensor.name for tensor in file.tensors if not file.verify(tensor.name)]
    if damaged:
        raise SessionFileError(f"{path} is damaged: {damaged[0]} fails its checksum", hint="start a new conversation")
    count = header["tokens"]
    short = header.get("rings", False) and not state.ring  # whose context is so short that it is to keep all
    if not count or header["kv"] != state.kv_dtype or short:
        return None, header["extra"]  # the cache is of no use: the prompt is computed anew
    if not isinstance(count, int) or not 0 < count < _MAX_POSITIONS:
        raise ValueError("its number of tokens is none")
    ids = file.tensor("ids", "U8", 4 * count).view(np.int32)
    if ids.min() < 0 or ids.max() >= vocab:
        raise ValueError("it has token ids that the model does not have")
    state.reserve(count)
    sequence = TokenSequence(state)
    sequence.ids = array("i", ids.tolist())
    for name, target in state.cache_views(count):
        target[...] = file.tensor(name, "U8", target.nbytes).view(target.dtype).reshape(target.shape)
    for position in header["checkpoints"]:
        if not isinstance(position, int) or not 0 < position <= count:
            raise ValueError("it has a checkpoint that is none")
        sequence.remember(_read_checkpoint(file, position, count, state, f"checkpoint.{position}"))
    state.go_back(_read_checkpoint(file, count, count, state, "conv"))
    _read_draft(file, header.get("draft"), count, state.draft)
    return sequence, header["extra"]


def _read_draft(file: PackedFile, header: Any, count: int, draft: DraftCache | None) -> None:
    """What a drafter has kept of a sequence of `count` tokens, if it is the same one."""
    if draft is None or not header or header["drafter"] != draft.drafter:
        return
    first, read, unread, cols = header["first"], header["read"], count - header["read"], draft.unread.shape[1]
    if not 0 <= first <= read <= count or not 0 <= unread < DRAFT_CHUNK:
        raise ValueError("what it has for a drafter is of other tokens")
    if first and header.get("begins") != "at 0":  # earlier versions had the tokens before the first one, too
        return
    draft.state.reserve(read - first)
    for name, target in draft.state.cache_views(read - first) if read > first else ():
        target[...] = file.tensor(f"draft.{name}", "U8", target.nbytes).view(target.dtype).reshape(target.shape)
    draft.first, draft.read = first, read
    if unread:
        streams = file.tensor("draft.unread", "U8", 4 * unread * cols).view(np.float32)
        draft.unread = streams.reshape(unread, cols).copy()


def _read_checkpoint(file: PackedFile, position: int, count: int, state: State, name: str) -> Checkpoint:
    """A place to go back to in a sequence of `count` tokens; `name`: of the tensor that has its conv inputs."""
    window = {key: _read_window(file, key, position, count, state) for key in state.rings}
    if not state.conv:  # a model of attention alone
        return Checkpoint(position, {}, window)
    layers, shape = list(state.conv), next(iter(state.conv.values())).shape
    values = file.tensor(name, "U8", 4 * len(layers) * shape[0] * shape[1]).view(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("its state holds NaN or infinity")
    values = values.reshape(len(layers), *shape)
    return Checkpoint(position, {n: values[row].copy() for row, n in enumerate(layers)}, window)


def _read_window(file: PackedFile, key: tuple[int, str], position: int, count: int, state: State) -> NDArray[Any]:
    """What a cache of a sliding layer, (layer, field of its record), is to hold of the window before a position."""
    (layer, field), cache, window = key, state.caches[key], np.array(state.window_before(position), np.int64)
    like: NDArray[Any] = cache[places(field, np.zeros(len(window), np.int64))]
    if (whole := f"{field}.{layer}") not in file.file.tensors:
        raw = file.tensor(f"{whole}.{position}", "U8", like.nbytes)
        return raw.view(like.dtype).reshape(like.shape)
    blocks = -(-count // 16)
    shape = (cache.shape[0], blocks if field == "keys" else 16 * blocks, *cache.shape[2:])
    every = file.tensor(whole, "U8", math.prod(shape) * cache.itemsize).view(cache.dtype).reshape(shape)
    kept: NDArray[Any] = every[places(field, window)]
    return kept


def _describe_draft(sequence: TokenSequence | None) -> dict[str, Any] | None:
    """Of what a drafter keeps of a sequence: whose it is, and of which tokens. Those behind the end are forgotten."""
    draft = sequence.state.draft if sequence is not None else None
    if sequence is None or draft is None or not draft.holds(len(sequence.ids)):
        return None
    draft.cut(len(sequence.ids))
    return {"drafter": draft.drafter, "first": draft.first, "read": draft.read, "begins": "at 0"}


def _draft_arrays(draft: DraftCache) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, view in draft.state.cache_views(draft.place(draft.read)):
        if view.size:
            yield f"draft.{name}", np.ascontiguousarray(view)
    if len(draft.unread):
        yield "draft.unread", np.ascontiguousarray(draft.unread)


def _arrays(sequence: TokenSequence) -> Iterator[tuple[str, NDArray[Any]]]:
    yield "ids", np.array(sequence.ids, np.int32)
    if sequence.state.conv:
        yield "conv", np.stack(list(sequence.state.conv.values()))
    for name, view in sequence.state.cache_views(len(sequence.ids)):
        yield name, np.ascontiguousarray(view)
    end = sequence.state.with_window(sequence.state.checkpoint())
    places = _lasting(sequence)
    for position, checkpoint in sorted((places | {end.position: end}).items()):
        if checkpoint.conv and position in places:
            yield f"checkpoint.{position}", np.stack(list(checkpoint.conv.values()))
        for (layer, field), values in checkpoint.window.items():
            yield f"{field}.{layer}.{position}", values


def _lasting(sequence: TokenSequence) -> dict[int, Checkpoint]:
    """The places that do not depend on what rings hold now."""
    return {p: c for p, c in sequence.checkpoints.items() if c.window or not sequence.state.ring}
