"""Text to token ids and back: byte-level BPE from the model's `tokenizer.json`.

Decoding is stream-safe: what `Decoder` gives out never ends in half a UTF-8 character. Text of users is
encoded without special tokens, so that a spelled-out `<|im_end|>` stays text. Knows no templates.
"""

from __future__ import annotations

import codecs
import json
import re
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as HfTokenizer

from edge_lfm.architectures.reader import as_ids
from edge_lfm.errors import ContextOverflowError, ModelFileError, UsageError
from edge_lfm.formats.byte_level import CHARACTERS
from edge_lfm.formats.strict import read_bytes, read_json
from edge_lfm.text.dialects.marks import GAP_MARKS

_BYTES = {character: byte for byte, character in enumerate(CHARACTERS)}
TOKEN_NAMES = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
"""How transformers names control tokens, for settings and for templates."""
_WORD = re.compile(r"[^\W_\s]+|\s+")
_LONG = 20_000
"""Characters from which a text is encoded beside others: below, that costs more than it takes, a few milliseconds."""


class Tokenizer:
    """The tokenizer of one model folder.

    Raises:
        ModelFileError: `tokenizer.json` is missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        if not path.exists():
            raise ModelFileError(f"{path} does not exist", hint="copy it from the checkpoint into the model's folder")
        try:
            self._inner = HfTokenizer.from_buffer(read_bytes(path))
        except BaseException as error:  # a hostile file raises PanicException, which is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit | ModelFileError):
                raise
            raise ModelFileError(f"{path} is not a tokenizer: {error}", hint="copy it again") from None
        self._encoding = threading.Lock()
        self._long: dict[bool, HfTokenizer] = {}
        self._inner.no_truncation()
        self._inner.no_padding()
        settings_path = folder / "tokenizer_config.json"
        self.settings = read_json(settings_path) if settings_path.exists() else {}
        self._added = self._inner.get_added_tokens_decoder()

    @cached_property
    def size(self) -> int:
        """One more than the highest token id: rows of the logits from here on are padding."""
        return 1 + max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1)

    def as_json(self) -> str:
        """For grammars: the `tokenizer.json` that was loaded, with names for control tokens that no text can spell.

        Else a grammar that forces a text which spells one would force the token.
        """
        raw = json.loads(self._inner.to_str())
        vocabulary = raw["model"].get("vocab")
        for token in raw["added_tokens"]:
            if token["id"] in self._control:
                name = f"\ue000{token['id']}\ue001"
                if isinstance(vocabulary, dict) and token["content"] in vocabulary:
                    vocabulary[name] = vocabulary.pop(token["content"])
                token |= {"content": name, "special": True}
        return json.dumps(raw | {"post_processor": None}, ensure_ascii=False)

    def special_id(self, token: str) -> int | None:
        """The id of a special token by its spelling, or None."""
        number: int | None = self._inner.token_to_id(token)
        return number

    def first_id(self, tokens: Sequence[str]) -> int | None:
        """The id of the first of these that the vocabulary has, or None."""
        return next((i for token in tokens if (i := self.special_id(token)) is not None), None)

    @property
    def bos(self) -> str:
        return self._special("bos_token")

    @cached_property
    def start_id(self) -> int | None:
        """The token that begins a text; None if there is none, or only templates write it (`add_bos_token` false)."""
        return None if self.settings.get("add_bos_token") is False else self.special_id(self.bos)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return as_ids(self.special_id(self._special("eos_token")))

    @property
    def named_tokens(self) -> dict[str, str]:
        """The control tokens that a template may ask for by name, as transformers gives them: eos_token and so on."""
        return {name: text for name in TOKEN_NAMES if (text := self._special(name))}

    def is_special(self, token_id: int) -> bool:
        """Whether a token is a control token, which has no text of its own."""
        added = self._added.get(token_id)
        return bool(added and added.special)

    def is_control(self, token_id: int) -> bool:
        """Whether a token is special, or one that only a template or the model itself may write (`spellings`)."""
        return token_id in self._control

    @cached_property
    def spellings(self) -> re.Pattern[str] | None:
        """What matches the spelling of a control token, the longest first; None if there is none.

        Control tokens are those that are special, and of the other added ones those with a character that is no letter,
        digit or white space: `<think>` is one, `python` and a run of spaces are words.
        """
        texts = sorted((str(self._added[i].content) for i in self._control), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, texts))) if texts else None

    @cached_property
    def _control(self) -> frozenset[int]:
        return frozenset(i for i, a in self._added.items() if a.special or _WORD.fullmatch(str(a.content)) is None)

    def encode(self, text: str, *, bos: bool = False, special: bool = False) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text without lone surrogates.
            bos: put the start token in front, unless the text begins with it.
            special: read spellings of special tokens as such; only for text from a template.

        Raises:
            UsageError: the text has a lone surrogate, which UTF-8 cannot carry.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(
                "the text holds a lone surrogate, which is not valid Unicode", hint="send well-formed UTF-8"
            ) from None
        ids = self._ids(text, special)
        if not special and not self._control.isdisjoint(ids):  # the library knows only those with "special": true
            ids = self._encode_words(text)
        start = self.start_id if bos else None
        return ids if start is None or ids[:1] == [start] else [start, *ids]

    def _ids(self, text: str, special: bool) -> list[int]:
        """Token ids, with spellings of special tokens as such or as text."""
        if len(text) < _LONG:
            with self._encoding:  # the flag belongs to the tokenizer, not to the call
                self._inner.encode_special_tokens = not special
                encoding = self._inner.encode(text, add_special_tokens=False)
        else:
            encoding = self._for_long_texts(special).encode_batch_fast([text], add_special_tokens=False)[0]
        ids: list[int] = encoding.ids
        return ids

    def _for_long_texts(self, special: bool) -> HfTokenizer:
        """The same tokenizer, for texts that take long: nobody waits for it, and it lets other threads run."""
        with self._encoding:
            if special not in self._long:
                self._long[special] = HfTokenizer.from_str(self._inner.to_str())
                self._long[special].encode_special_tokens = not special
            return self._long[special]

    def check_room(self, text: str, room: int) -> None:
        """Refuse a text that has more than `room` tokens, whatever they are, by its length.

        Raises:
            ContextOverflowError: it has.
        """
        least = -(-len(text) // self._longest) if self._longest else 0
        if least > room:
            raise ContextOverflowError(
                f"the prompt has at least {least} tokens, and the maximum context length is {room} tokens",
                hint="shorten the prompt, or load the model with a larger context",
                param="prompt",
            )

    @cached_property
    def _longest(self) -> int:
        """Characters that one token may stand for; 0: it cannot be told, for text is rewritten before."""
        return 0 if self._inner.normalizer is not None else max(map(len, self._inner.get_vocab(True)))

    def _encode_words(self, text: str) -> list[int]:
        """Token ids by the model's own merges alone, whatever the text spells."""
        if self._inner.normalizer is not None:
            text = self._inner.normalizer.normalize_str(text)
        words = self._inner.pre_tokenizer.pre_tokenize_str(text) if self._inner.pre_tokenizer else [(text, None)]
        return [token.id for word, _ in words for token in self._inner.model.tokenize(word)]

    def break_of(self, mark: str) -> int:
        """Where to cut a text in two, so that its parts are other tokens than the whole; 1 if that is nowhere."""
        whole = self.encode(mark)
        cuts = range(1, len(mark))
        return next((n for n in cuts if [*self.encode(mark[:n]), *self.encode(mark[n:])] != whole), 1)

    def encode_gap(self, before: str, after: str) -> list[int]:
        """Token ids that ask for the text between two texts (fill-in-the-middle).

        Raises:
            UsageError: the model has no markers for it.
        """
        sets = [[self.special_id(mark) for mark in marks] for marks in GAP_MARKS]
        gap_ids = next((ids for ids in sets if None not in ids), None)
        if gap_ids is None:
            raise UsageError(
                "this model cannot fill in the middle", hint=f"use a model with {GAP_MARKS[0][0]} in its vocabulary"
            )
        head = [i for i in (self.start_id, gap_ids[0]) if i is not None]
        return [*head, *self.encode(before), gap_ids[1], *self.encode(after), gap_ids[2]]  # type: ignore[list-item]

    def decode(self, token_ids: Sequence[int], *, special: bool = False) -> str:
        """The text of token ids; control tokens are spelled out if `special`, else left out."""
        decoder = Decoder(self, special=special)
        return "".join(decoder.feed(token_id) for token_id in token_ids) + decoder.finish()

    def decoder(self) -> Decoder:
        """What turns a stream of token ids into text, without control tokens."""
        return Decoder(self)

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that a token stands for; empty for ids that the vocabulary does not have."""
        added = self._added.get(token_id)
        if added is not None:
            return str(added.content).encode()
        token = self._inner.id_to_token(token_id)
        return b"" if token is None else bytes(_BYTES[c] for c in token if c in _BYTES)

    def ids_with(self, texts: Sequence[str]) -> frozenset[int]:
        """The tokens whose text has one of these in it."""
        parts = [text.encode() for text in texts]
        return frozenset(i for i in range(self.size) if any(text in self.bytes_of(i) for text in parts))

    def _special(self, key: str) -> str:
        value = self.settings.get(key, "")
        return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


class Decoder:
    """Turns a stream of token ids into text, holding back the bytes of an unfinished character.

    Bytes that are no UTF-8 become U+FFFD, one per malformed sequence, as in Python's own decoder.
    """

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        self._tokenizer, self._special = tokenizer, special
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_id: int) -> str:
        """The text that this token completes."""
        if self._tokenizer.is_special(token_id) and not self._special:
            return ""
        return self._bytes.decode(self._tokenizer.bytes_of(token_id))

    def finish(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, or nothing."""
        return self._bytes.decode(b"", final=True)
