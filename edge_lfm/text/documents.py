"""Documents to answer from: written into the prompt with their ids, and found again in the answer as citations.

No template of the family has a place for documents, so they stand at the end of the system message: in front of the
conversation, where their computation is shared by all questions about them. Knows text only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_lfm.errors import UsageError

_ID = re.compile(r"[\w.:/-]{1,64}")
_INTRODUCTION = "Answer from these documents."
_CITE = " Cite them by their ids in square brackets, as in [{first}]."


@dataclass(frozen=True)
class Document:
    """A text with an id (letters, digits and ._:/-) and perhaps a title."""

    id: str
    text: str
    title: str = ""


@dataclass(frozen=True)
class Citation:
    """Where an answer cites a document: characters start to end of its text, brackets included."""

    id: str
    title: str
    start: int
    end: int


def read_documents(values: Sequence[Any]) -> list[Document]:
    """Documents from objects {"id", "title", "text"}; a bare text gets its number as its id.

    Raises:
        UsageError: one has no text or a bad id, or two have the same id.
    """
    documents_read: list[Document] = []
    for n, value in enumerate(values):
        fields = {"text": value} if isinstance(value, str) else vars(value) if isinstance(value, Document) else value
        if not isinstance(fields, Mapping) or not isinstance(fields.get("text"), str):
            raise UsageError(f"document {n} has no text", hint='a document is {"id": ..., "title": ..., "text": ...}')
        documents_read.append(Document(str(fields.get("id", n + 1)), fields["text"], str(fields.get("title") or "")))
    for document in documents_read:
        if not _ID.fullmatch(document.id):
            raise UsageError(f"{document.id!r:.80} is no id of a document", hint="use letters, digits and ._:/-")
    if len({d.id for d in documents_read}) < len(documents_read):
        raise UsageError("two documents have the same id", hint="rename one")
    return documents_read


def write_documents(documents: Sequence[Document], cite: bool) -> str:
    """The documents as the model reads them."""
    head = _INTRODUCTION + (_CITE.format(first=documents[0].id) if cite else "")
    return "\n\n".join([head, *(f"[{d.id}]{f' {d.title}' if d.title else ''}\n{d.text}" for d in documents)])


def shortened(documents: Sequence[Document], characters: int) -> tuple[list[Document], list[str]]:
    """All documents cut to at most so many characters each; the ids of those that lost something."""
    kept = [Document(d.id, d.text[:characters], d.title) for d in documents]
    return kept, [d.id for d in documents if len(d.text) > characters]


def find_citations(text: str, documents: Sequence[Document]) -> list[Citation]:
    """The citations in an answer, of documents that exist."""
    titles = {d.id: d.title for d in documents}
    matches = re.finditer(r"\[([^\[\]]{1,64})\]", text)
    return [Citation(m[1], titles[m[1]], *m.span()) for m in matches if m[1] in titles]


def citation_grammar(documents: Sequence[Document]) -> str:
    """Lark: text in which brackets hold ids of these documents only."""
    ids = " | ".join(f'"[{d.id}]"' for d in documents)
    return f"start: (TEXT | cite)+\ncite: {ids}\nTEXT: /[^\\[\\]]+/"
