"""A `tokenizer.json` of byte-level BPE, made from its parts. Knows no other format and no family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COMPOSES = {"type": "NFC"}
"""The normalizer that composes characters before a text is split."""


def _characters() -> str:
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return "".join(chr(byte if byte in printable else next(others)) for byte in range(256))


CHARACTERS = _characters()
"""GPT-2's printable stand-ins for the 256 bytes, which such vocabularies are written in."""


def added_token(token_id: int, content: str, special: bool) -> dict[str, Any]:
    """A token that is found in a text before it is split."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": content, **flags, "special": special}


def byte_level_tokenizer(
    vocab: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    added: Sequence[Mapping[str, Any]],
    split: Sequence[str],
    composes: bool,
    start: Mapping[str, Any] | None = None,
    whole_words_first: bool = False,
) -> dict[str, Any]:
    """The contents of a `tokenizer.json`.

    vocab: token, in `CHARACTERS` -> id. merges: pairs of tokens, the earliest first. added: of `added_token`.
    split: expressions, of which each splits what those before have left. composes: as `COMPOSES` says.
    start: a post-processor. whole_words_first: a word that is a token stays whole, whatever merges say.
    """
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    isolated = {"type": "Split", "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(added),
        "normalizer": COMPOSES if composes else None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [*(isolated | {"pattern": {"Regex": pattern}} for pattern in split), level],
        },
        "post_processor": start,
        "decoder": level | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": whole_words_first,
            "vocab": dict(vocab),
            "merges": [list(pair) for pair in merges],
        },
    }
