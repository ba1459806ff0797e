"""Vocabularies of the package tiktoken, as a `tokenizer.json`: lines of a token in base64 and its rank.

Such a vocabulary lists no merges: two neighbours merge where their joint bytes are a token, the lowest rank first, and
a word that is a token stays whole. As merges that is every way to cut a token into two others, in the order of ranks.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Sequence

from edge_lfm.errors import ModelFileError
from edge_lfm.formats.byte_level import CHARACTERS, added_token, byte_level_tokenizer

_MAX_TOKEN = 1024
"""Bytes; the longest of published ones are runs of 128 spaces."""


def tokenizer_json(content: bytes, specials: Sequence[str], split: Sequence[str], composes: bool, where: str) -> bytes:
    """The contents of a `tokenizer.json` that encodes as tiktoken does with the vocabulary `content`.

    specials: names of control tokens; their ids follow the ranks. split, composes: as of `byte_level_tokenizer`.
    where: the file, for messages.

    Raises:
        ModelFileError: a line is no token, or a byte has none.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        token = _token_of(line, f"{where}, line {number}")
        ranks.setdefault(token, len(ranks))  # a token that comes twice counts once, as in Hunyuan's own reader
    missing = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if missing is not None:
        raise ModelFileError(f"{where} has no token for the byte {missing}", hint="download the checkpoint again")
    merges = [[_spelt(left), _spelt(right)] for token in ranks for left, right in _cuts(token, ranks)]
    added = [added_token(n, name, special=True) for n, name in enumerate(specials, len(ranks))]
    vocab = {_spelt(token): rank for token, rank in ranks.items()}
    made = byte_level_tokenizer(vocab, merges, added, split, composes, whole_words_first=True)
    return json.dumps(made, ensure_ascii=False).encode()


def _token_of(line: bytes, where: str) -> bytes:
    parts = line.split()
    try:
        token = base64.b64decode(parts[0], validate=True) if len(parts) == 2 and parts[1].isdigit() else b""
    except binascii.Error:
        token = b""
    if not 0 < len(token) <= _MAX_TOKEN:
        raise ModelFileError(f"{where} is no token and rank", hint="download the checkpoint again")
    return token


def _cuts(token: bytes, ranks: dict[bytes, int]) -> Iterator[tuple[bytes, bytes]]:
    cuts = ((token[:n], token[n:]) for n in range(1, len(token)))
    return ((left, right) for left, right in cuts if left in ranks and right in ranks)


def _spelt(token: bytes) -> str:
    return "".join(CHARACTERS[byte] for byte in token)
