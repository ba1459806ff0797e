"""The texts that the model reads beside its samples: stories, novels, Python code, three other languages.

Laid out as in the folder given: english/corpus, english/standardebooks, eval/tinystories, multilingual. Python code is
the standard library of the running interpreter. What is held out is never trained on.
"""

from __future__ import annotations

import json
import re
import sysconfig
import zlib
from pathlib import Path

_HELD_NOVEL = "Doyle_Lost_1912"
_NOVELS = (
    "Burnett_", "Kipling_", "Stevenson_", "Haggard_Mines", "Haggard_She_", "Doyle_Hound", "Ward_Milly",
    "Barclay_Postern", "Chesterton_Innocence", "Bennet_Babylon", "Lee_Brown", "Schreiner_Trooper", "Morris_Wood",
    "Forster_View", "Dickens_Expectations", "Wcollins_Woman",
)  # fmt: skip
_NO_CODE = re.compile(
    r"/(test|tests|idlelib|lib2to3|site-packages|turtledemo|encodings|ensurepip|__pycache__)/|_pydecimal|pydoc_data"
)
_LANGUAGES = ("fra", "deu", "spa")
_HELD_TINY = 50

Texts = dict[str, list[str]]
"""Texts by domain: tiny, story, novel, code, multi."""


def load(folder: Path, held_out: bool = False) -> Texts:
    """The training texts, or those that are held out."""
    tiny = _tiny_stories(folder)
    english = sorted((folder / "english/corpus").glob("*.txt"))
    starts = (_HELD_NOVEL,) if held_out else _NOVELS
    novels = [p for p in english if p.name.startswith(starts) and p.name.startswith(_HELD_NOVEL) == held_out]
    ebooks = [] if held_out else sorted((folder / "english/standardebooks").glob("*.txt"))
    multi: list[str] = []
    for language in _LANGUAGES:
        books = sorted((folder / f"multilingual/eltec_{language}").glob("*.txt"))
        multi += [_unwrapped(p)[:400_000] for p in (books[:1] if held_out else books[1:])]
    if not held_out:
        sentences = sorted((folder / "multilingual/lingua_sentences").rglob("*.txt"))
        multi += [_read(p) for p in sentences if p.name[:2] in ("fr", "de", "es")]
    return {
        "tiny": tiny[-_HELD_TINY:] if held_out else tiny[:-_HELD_TINY],
        "story": [_unwrapped(p) for p in ebooks],
        "novel": [_unwrapped(p) for p in novels],
        "code": _standard_library(held_out),
        "multi": multi,
    }


def _tiny_stories(folder: Path) -> list[str]:
    stories = json.loads(_read(folder / "eval/tinystories/tinystories_1000.json"))
    return [_plain_quotes(story).strip() for story in stories]


def _standard_library(held_out: bool) -> list[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [p for p in sorted(root.rglob("*.py")) if not _NO_CODE.search(str(p)) and 500 < p.stat().st_size < 200_000]
    return [_read(p) for p in files if (zlib.crc32(str(p.relative_to(root)).encode()) % 20 == 0) == held_out]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="ignore")


def _plain_quotes(text: str) -> str:
    for typographic, plain in (("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\ufeff", "")):
        text = text.replace(typographic, plain)
    return text.replace("\r\n", "\n")


def _unwrapped(path: Path) -> str:
    """Hard-wrapped lines joined into paragraphs."""
    parts = (re.sub(r"\s*\n\s*", " ", part).strip() for part in re.split(r"\n\s*\n", _plain_quotes(_read(path))))
    return "\n\n".join(part for part in parts if part)
