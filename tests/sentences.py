"""The sentences of a Markdown document, for tests of its language."""

from __future__ import annotations

import re

_CODE = re.compile(r"^```.*?^```|^ {4,}\S.*?$|<!--.*?-->", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_HEAD = re.compile(r"^---\n.*?\n---\n", re.DOTALL)
_ENDS = re.compile(r"(?<=[.!?])[)\"*]*\s+(?=[\"(*]*[A-Z0-9`\[])")
_SHORT = re.compile(r"\b(e\.g|i\.e|C|vs|No)\.\s")


def prose(text: str) -> list[str]:
    """The paragraphs, list items and headings of a document, without code, tables, comments and addresses."""
    text = _LINK.sub(r"\1", _CODE.sub("", _HEAD.sub("", text)))
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if not line.strip() or line.startswith(("|", "#")):
            blocks.append([])
        elif re.match(r"\s*(?:[-*]|\d+\.)\s", line):
            blocks.append([re.sub(r"^\s*(?:[-*]|\d+\.)\s+", "", line)])
        else:
            blocks[-1].append(line.strip())
    return [" ".join(block) for block in blocks if block]


def sentences(text: str) -> list[str]:
    """Each sentence; of a table none. A code span is one word, whatever it holds."""
    found = []
    for block in prose(text):
        plain = re.sub(r"`[^`]*`", "`x`", block)
        found += [s for s in _ENDS.split(_SHORT.sub(r"\1 ", plain)) if re.search(r"\w", s)]
    return found


def words(sentence: str) -> int:
    """Words and numbers; what is joined by a hyphen or a slash is one."""
    return len(re.findall(r"[\w`][\w`'.,/%-]*", sentence))
