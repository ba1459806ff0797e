"""A tokenizer as `tokenizer.json` and its neighbours say it, and as a GGUF file's metadata says it: both ways.

Both hold the same byte-level BPE; GGUF names the regular expression that splits a text in place of spelling it out.
Knows vocabularies, merges and templates; does not tokenize.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edge_lfm.architectures import GgufSpelling
from edge_lfm.architectures.reader import as_ids
from edge_lfm.errors import UnsupportedModelError
from edge_lfm.formats.byte_level import COMPOSES, added_token, byte_level_tokenizer
from edge_lfm.formats.splitting import splits_alike
from edge_lfm.formats.strict import json_object, refusing

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
_KEY = "tokenizer.ggml."
_BYTE_LEVEL_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What the package tokenizers' ByteLevel has built in (`use_regex`)."""
_IDS = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "pad_token": "padding_token_id"}
_NOTHING = {"type": "Sequence", "normalizers": []}
"""A normalizer that changes nothing, as DeepSeek's files have it."""
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
"""Tokens that end an answer: of a text, of a turn, of a message. llama.cpp stops at each."""


def hub_files(metadata: Mapping[str, Any], spelling: GgufSpelling, where: str) -> dict[str, bytes]:
    """The tokenizer files of a checkpoint, by name, from a GGUF file's metadata; none if it has no vocabulary.

    Raises:
        UnsupportedModelError: the tokenizer is none of the family's.
    """
    model = metadata.get(f"{_KEY}model", "none")
    if model in ("none", "no_vocab"):
        return {}
    splitter = metadata.get(f"{_KEY}pre")
    if model != "gpt2" or splitter not in spelling.splitters:
        raise UnsupportedModelError(
            f"{where}: the tokenizer {model!r:.40} with the splitter {splitter!r:.40} is not implemented",
            hint=f"the family's is gpt2 with one of {', '.join(spelling.splitters)}",
        )
    tokens: Any = metadata.get(f"{_KEY}tokens")
    merges: Any = metadata.get(f"{_KEY}merges")
    types = metadata.get(f"{_KEY}token_type") or [NORMAL] * len(tokens or ())
    if not _are_texts(tokens) or not _are_texts(merges) or not isinstance(types, list) or len(types) != len(tokens):
        raise UnsupportedModelError(f"{where}: its vocabulary is incomplete", hint="convert the model again")
    special = {
        name: tokens[token_id]
        for name, key in _IDS.items()
        if isinstance(token_id := metadata.get(_KEY + key), int) and 0 <= token_id < len(tokens)
    }
    adds_bos = bool(metadata.get(f"{_KEY}add_bos_token", spelling.adds_bos)) and "bos_token" in special
    files: dict[str, Any] = {
        "tokenizer.json": _tokenizer_json(
            tokens, types, merges, special.get("bos_token") if adds_bos else None, spelling
        ),
        "tokenizer_config.json": {"add_bos_token": adds_bos, "add_eos_token": False} | special,
        "generation_config.json": {
            "bos_token_id": metadata.get(f"{_KEY}bos_token_id"),
            "eos_token_id": list(dict.fromkeys(metadata[_KEY + end] for end in _ENDS if _KEY + end in metadata)),
        },
    }
    contents = {name: json.dumps(value, ensure_ascii=False, indent=1).encode() for name, value in files.items()}
    template = metadata.get("tokenizer.chat_template")
    return contents | ({"chat_template.jinja": template.encode()} if isinstance(template, str) else {})


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _tokenizer_json(
    tokens: list[str], types: list[int], merges: list[str], bos: str | None, spelling: GgufSpelling
) -> dict[str, Any]:
    used = [(n, token, kind) for n, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED]
    added = [added_token(n, token, kind == CONTROL) for n, token, kind in used if kind in (CONTROL, USER_DEFINED)]
    start = None
    if bos is not None:
        piece = {"SpecialToken": {"id": bos, "type_id": 0}}
        text = [{"Sequence": {"id": which, "type_id": 0}} for which in "AB"]
        start = {
            "type": "TemplateProcessing",
            "single": [piece, text[0]],
            "pair": [piece, text[0], piece, text[1]],
            "special_tokens": {bos: {"id": bos, "ids": [tokens.index(bos)], "tokens": [bos]}},
        }
    vocab = {token: n for n, token, _ in used}
    pairs = [merge.split(" ") for merge in merges]
    whole_words = spelling.whole_words_first
    return byte_level_tokenizer(vocab, pairs, added, spelling.split, spelling.composes, start, whole_words)


def gguf_metadata(
    files: Mapping[str, bytes], vocab_size: int, spelling: GgufSpelling, where: str, ends: tuple[int, ...] = ()
) -> dict[str, Any]:
    """The keys of a GGUF file that say the same as a checkpoint's tokenizer files; none if there is no tokenizer.

    ends: what config.json says that ends an answer.

    Raises:
        UnsupportedModelError: the tokenizer is none of the family's, or GGUF has too few keys for what ends an answer.
    """
    if "tokenizer.json" not in files:
        return {f"{_KEY}model": "no_vocab"}
    with refusing(f"{where}: tokenizer.json"):
        metadata = _metadata(files, vocab_size, spelling, where)
    generation = json_object(files.get("generation_config.json", b"{}"), f"{where}: generation_config.json")
    first = as_ids(metadata.get(f"{_KEY}eos_token_id"))
    known = tuple(dict.fromkeys((*first, *as_ids(generation.get("eos_token_id")), *ends)))
    if len(known) > len(_ENDS):
        raise UnsupportedModelError(
            f"{where}: {len(known)} tokens end an answer", hint=f"GGUF has keys for {len(_ENDS)}"
        )
    return metadata | {_KEY + key: end for key, end in zip(_ENDS, known, strict=False)}


def _metadata(files: Mapping[str, bytes], vocab_size: int, spelling: GgufSpelling, where: str) -> dict[str, Any]:
    tokenizer = json_object(files["tokenizer.json"], f"{where}: tokenizer.json")
    settings = json_object(files.get("tokenizer_config.json", b"{}"), f"{where}: tokenizer_config.json")
    model = tokenizer["model"]
    split = _split_of(tokenizer["pre_tokenizer"])
    if model.get("type") != "BPE" or split is None or not splits_alike(split, spelling.split):
        raise UnsupportedModelError(
            f"{where}: tokenizer.json splits texts another way than its family", hint="GGUF has no name for it"
        )
    normalizer = tokenizer.get("normalizer")
    if normalizer not in (None, _NOTHING) and not (spelling.composes and normalizer == COMPOSES):
        raise UnsupportedModelError(
            f"{where}: tokenizer.json changes texts before it splits them: {json.dumps(normalizer):.80}",
            hint="GGUF has no name for it",
        )
    tokens, types = [f"[PAD{n}]" for n in range(vocab_size)], [UNUSED] * vocab_size
    named = [(token, n, NORMAL) for token, n in model["vocab"].items()]
    kinds = {True: CONTROL, False: USER_DEFINED}
    named += [(added["content"], added["id"], kinds[added["special"]]) for added in tokenizer["added_tokens"]]
    for token, n, kind in named:
        if type(n) is not int or not 0 <= n < vocab_size:
            raise ValueError(f"token {token!r:.40} has the id {n!r:.40}, the model {vocab_size} rows")
        tokens[n], types[n] = token, kind
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    metadata: dict[str, Any] = {
        f"{_KEY}model": "gpt2",
        f"{_KEY}pre": spelling.splitters[0],
        f"{_KEY}tokens": tokens,
        f"{_KEY}token_type": types,
        f"{_KEY}merges": merges,
        f"{_KEY}add_bos_token": bool(settings.get("add_bos_token", spelling.adds_bos)),
        f"{_KEY}add_eos_token": False,
    }
    for name, key in _IDS.items():
        token = settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if token in tokens:
            metadata[_KEY + key] = tokens.index(token)
    template = files.get("chat_template.jinja")
    inline = settings.get("chat_template")
    if template is not None or isinstance(inline, str):
        metadata["tokenizer.chat_template"] = template.decode() if template is not None else inline
    return metadata


def _split_of(pre_tokenizer: Any) -> tuple[str, ...] | None:
    """The regular expressions that isolate words, if bytes are all that comes after them; else None."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if [step["type"] for step in steps] == ["ByteLevel"] and steps[0]["use_regex"]:
        return None if steps[0]["add_prefix_space"] else (_BYTE_LEVEL_SPLIT,)
    *splits, level = steps
    if not splits or any(step["type"] != "Split" for step in splits) or level["type"] != "ByteLevel":
        return None
    plain = all(split["behavior"] == "Isolated" and not split["invert"] for split in splits)
    if not plain or level["add_prefix_space"] or level["use_regex"]:
        return None
    patterns = tuple(split["pattern"].get("Regex") for split in splits)
    return patterns if all(isinstance(pattern, str) for pattern in patterns) else None
