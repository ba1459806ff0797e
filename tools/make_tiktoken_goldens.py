"""Remake tests/data/tiktoken.json: what the package tiktoken makes of texts with the demo model's vocabulary as ranks.

    pip install tiktoken && python tools/make_tiktoken_goldens.py

Imports nothing of edge-lfm. The ranks are the 256 bytes in their order, then the demo's tokens by their ids, each once;
one of ten is left out, so that some words are tokens that no merge of two others gives. The expression and the names
are those of Hunyuan-A13B's own `tokenization_hy.py`.
"""

from __future__ import annotations

import base64
import json
import random
import unicodedata
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEMO, OUT = ROOT / "edge_lfm" / "demo_model" / "tokenizer.json", ROOT / "tests" / "data" / "tiktoken.json"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIALS = [f"<|{name}|>" for name in ("endoftext", "startoftext", "bos", "eos", "pad")]
SPECIALS += [f"<|extra_{n}|>" for n in range(205)]
TEXTS = [
    "<|startoftext|>You are helpful.<|extra_4|>Weather in Boston?<|extra_0|>",
    "<think>\nNeed the tool.\n</think>\n<answer>\n"
    '<tool_calls>[{"name": "f", "arguments": {}}]</tool_calls>\n</answer><|eos|>',
    "It's 1234567 o'clock,  isn't IT'S?\r\n\r\n\tdef f(x):\n        return x**2   ",
    "天气怎么样？ Ōsaka e\u0301te\u0301 🎉🎉 ﬁ Å",
    "<|extra_205|> <|eos <|pad|><|endoftext|>",
    "",
]


def ranks() -> dict[bytes, int]:
    """The vocabulary, made of the demo's."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    byte = {chr(b): b for b in plain} | {chr(256 + n): b for n, b in enumerate(others)}
    demo = json.loads(DEMO.read_text(encoding="utf-8"))
    control = {added["content"] for added in demo["added_tokens"]}
    tokens = [bytes([b]) for b in range(256)]
    for token, n in sorted(demo["model"]["vocab"].items(), key=lambda item: item[1]):
        if n % 10 and token not in control:
            tokens.append(bytes(byte[character] for character in token))
    return {token: n for n, token in enumerate(dict.fromkeys(tokens))}


def main() -> None:
    import tiktoken

    vocabulary = ranks()
    special = {name: len(vocabulary) + n for n, name in enumerate(SPECIALS)}
    encoding = tiktoken.Encoding("golden", pat_str=SPLIT, mergeable_ranks=vocabulary, special_tokens=special)
    rng = random.Random(0)
    words = [token.decode(errors="replace") for token in vocabulary]
    texts = [*TEXTS, *("".join(rng.choices(words, k=60)) for _ in range(20))]
    ids = [encoding.encode(unicodedata.normalize("NFC", text), allowed_special="all") for text in texts]
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in vocabulary.items()]
    golden = {"vocabulary": "\n".join(lines), "specials": SPECIALS, "texts": texts, "ids": ids}
    OUT.write_text(json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8")
    print(len(vocabulary), "tokens,", sum(map(len, ids)), "ids")


if __name__ == "__main__":
    main()
