"""What becomes of fields that a request has beyond those that are known: taken where they change nothing, else refused.

Other servers' clients send many. Some say who asks or how the answer is to be made: taken. Some ask for what happens
anyway, like `typical_p: 1`: taken. Whatever else would change the answer, or might, is refused by its name, for an
answer that silently is not what was asked for is worse than none.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import msgspec

from edge_lfm.server.failures import RequestError

HARMLESS = frozenset(
    """user metadata store service_tier safety_identifier prompt_cache_key prompt_cache_retention cache_salt request_id
    rid priority client_metadata trace_id session_id cache_prompt id_slot slot_id timings_per_token include
    stream_options return_progress prediction guided_decoding_backend max_wait_time""".split()  # noqa: SIM905
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
    ([], "functions logits_processors lora modalities tools"),
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


def check_unknown(body: bytes, known: Iterable[str]) -> None:
    """Refuse the fields of a body that are not known and would change its answer.

    Raises:
        RequestError: there is one.
        msgspec.DecodeError, msgspec.ValidationError: the body is no JSON object.
    """
    names = set(known)
    for name, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items():
        if name in names or name in HARMLESS or bytes(raw) == b"null":
            continue
        if len(raw) < 100 and _is_neutral(name, msgspec.json.decode(raw)):
            continue
        close = difflib.get_close_matches(name[:100], names, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise RequestError(f"{name[:100]!r} is not supported here{meant}", name[:100], "unsupported_field")


def _is_neutral(name: str, value: Any) -> bool:
    """Whether a field asks for what is done anyway; to JSON 1 and 1.0 are the same, 1 and true are not."""
    return any(
        name in names.split() and value == neutral and isinstance(value, bool) == isinstance(neutral, bool)
        for neutral, names in _NEUTRAL
    )
