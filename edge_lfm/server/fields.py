"""What becomes of what a request has beyond the fields that are known, at every depth: taken where it changes nothing,
else refused.

Clients send many such fields. Some say who asks or how the answer is to be made: taken. Some ask for what happens
anyway, like `typical_p: 1`, or for nothing: taken. Whatever else would change the answer, or might, is refused by its
place, for an answer that silently is not what was asked for is worse than none.
"""

from __future__ import annotations

import difflib
import functools
import types
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from edge_lfm.server.failures import RequestError

HARMLESS = frozenset(
    """user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention cache_salt request_id
    rid priority client_metadata trace_id session_id cache_prompt id_slot slot_id timings_per_token include
    stream_options return_progress prediction guided_decoding_backend max_wait_time prompt_cache_options""".split()  # noqa: SIM905
)
"""Who asks, for what purpose, and how the answer is to be made; of how it is told, what only adds to it."""

_NEUTRAL: tuple[tuple[Any, str], ...] = (
    (True, "add_generation_prompt add_special_tokens do_sample include_reasoning parallel_tool_calls parse_special"),
    (True, "parse_tool_calls separate_reasoning skip_special_tokens spaces_between_special_tokens stream_reasoning"),
    (False, "audio background continue_final_message early_stopping echo include_stop_str_in_output"),
    (False, "logprobs no_stop_trim penalize_nl post_sampling_probs return_full_text return_token_ids return_tokens"),
    (False, "return_token_strs stream use_beam_search watermark with_pieces"),
    (0, "dynatemp_range epsilon_cutoff eta_cutoff min_keep mirostat mirostat_mode n_indent"),
    (0, "n_keep n_probs no_repeat_ngram_size smoothing_factor top_a top_logprobs top_n_sigma top_n_tokens"),
    (0.1, "mirostat_eta"),  # of no effect without mirostat; llama.cpp's clients send it
    (5, "mirostat_tau"),
    (1, "best_of dynatemp_exponent length_penalty n num_beams tfs tfs_z typ_p typical typical_p"),
    (-1, "repeat_last_n top_n_sigma truncate_prompt_tokens"),
    ([], "betas functions logits_processors lora mcp_servers modalities tools"),
    (["text"], "modalities"),
    ({}, "chat_template_kwargs"),
    ("none", "function_call tool_choice"),
    ("auto", "function_call tool_choice"),
    ("medium", "reasoning_effort verbosity"),
    ("disabled", "truncation"),
    ("float", "encoding_format"),
    ("", "suffix"),
)
"""What asks for nothing else than is done anyway."""


class Body(Struct):
    """The whole body of a request."""

    harmless: ClassVar[frozenset[str]] = HARMLESS

    @classmethod
    def takes(cls, name: str, value: Any) -> bool:
        """Whether a field that is not known changes nothing.

        To JSON 1 and 1.0 are the same, 1 and true are not.
        """
        return value is None or any(
            name in names.split() and value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
            for neutral, names in _NEUTRAL
        )


class Nested(Struct):
    """An object inside a body. harmless: fields that it may have beside its own, for they do not change the answer."""

    harmless: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def takes(cls, _name: str, value: Any) -> bool:
        """Whether a field that is not known says nothing."""
        return value is None or value is False or value in ([], {})


def check_unknown(raw: bytes, kind: Any, place: str = "") -> None:
    """Refuse the fields of a JSON value, and of what is in it, that are not known and might change the answer.

    Args:
        raw: the value, which has been decoded as `kind` already.
        kind: its type; objects are `Body` or `Nested`.
        place: where it stands in the body.

    Raises:
        RequestError: there is one.
    """
    struct = _struct_of(kind)
    for key, value, inner in _members(raw, kind):
        there = _below(place, key)
        if inner is not None:
            if _holds_objects(inner):
                check_unknown(value, inner, there)
        elif struct is not None and key not in struct.harmless and not _says_nothing(struct, str(key), value):
            close = difflib.get_close_matches(str(key)[:100], _fields(struct), n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise RequestError(f"{there!r} is not supported here{meant}", there, "unsupported_field")


def kind_of_items(kind: Any, name: str) -> Any:
    """The type of what a struct's list of this name holds; None: it has no such list."""
    return _struct_of(_item_of(_fields(kind).get(name)))


def place_of_fault(raw: bytes, kind: Any, place: str = "") -> str:
    """Where in a JSON value something is not of its type; the value's own place if it is its own fault."""
    for key, value, inner in _members(raw, kind):
        try:
            if inner is not None:
                msgspec.json.decode(value, type=inner)
        except msgspec.ValidationError:
            return place_of_fault(value, inner, _below(place, key))
    return place


def _members(raw: bytes, kind: Any) -> Iterator[tuple[str | int, bytes, Any]]:
    """What an object or an array holds: names or numbers, JSON, and types; no type for fields that are not known."""
    struct, item, first = _struct_of(kind), _item_of(kind), bytes(raw).lstrip()[:1]
    if struct is not None and first == b"{":
        fields = _fields(struct)
        for name, value in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items():
            yield name, value, fields.get(name)
    elif item is not None and first == b"[":
        for n, value in enumerate(msgspec.json.decode(raw, type=list[msgspec.Raw])):
            yield n, value, item


def _below(place: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{place}[{key}]"
    return f"{place}.{key[:100]}" if place else key[:100]


def _says_nothing(struct: Any, name: str, raw: bytes) -> bool:
    return len(raw) < 100 and struct.takes(name, msgspec.json.decode(raw))


@functools.cache
def _fields(struct: type[Struct]) -> dict[str, Any]:
    """The types of a struct's fields by their names in JSON."""
    hints = get_type_hints(struct, include_extras=True)
    return {field.encode_name: hints[field.name] for field in msgspec.structs.fields(struct)}


@functools.cache
def _plain_kinds(kind: Any) -> tuple[Any, ...]:
    """What a type may be, without unions and annotations."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _plain_kinds(inner[0])
    if origin in (Union, types.UnionType):
        return tuple(plain for part in inner for plain in _plain_kinds(part))
    return (kind,)


def _struct_of(kind: Any) -> Any:
    return next((k for k in _plain_kinds(kind) if isinstance(k, type) and issubclass(k, Body | Nested)), None)


def _item_of(kind: Any) -> Any:
    return next((get_args(k)[0] for k in _plain_kinds(kind) if get_origin(k) is list), None)


@functools.cache
def _holds_objects(kind: Any) -> bool:
    item = _item_of(kind)
    return _struct_of(kind) is not None or (item is not None and _holds_objects(item))
