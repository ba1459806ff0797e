"""Answers from a folder of texts, with citations: python examples/documents.py FOLDER QUESTION [MODEL]

Retrieval is the application's: here a small BM25 index in memory (Robertson, Zaragoza 2009). The best documents go to
the model with their ids, and the citations of its answer come back with their places.
"""

import math
import re
import sys
from collections import Counter
from pathlib import Path

from edge_lfm import Model


class Index:
    """BM25 over the words of documents."""

    def __init__(self, documents: list[dict[str, str]]) -> None:
        self.documents = documents
        self.words = [Counter(re.findall(r"\w+", d["text"].lower())) for d in documents]
        self.mean = sum(sum(words.values()) for words in self.words) / len(documents)
        self.found_in = Counter(word for words in self.words for word in words)

    def search(self, question: str, count: int) -> list[dict[str, str]]:
        scores = [self.score(set(re.findall(r"\w+", question.lower())), words) for words in self.words]
        best = sorted(range(len(scores)), key=lambda n: -scores[n])[:count]
        return [self.documents[n] for n in best if scores[n] > 0]

    def score(self, query: set[str], words: Counter[str]) -> float:
        length, total = sum(words.values()) / self.mean, 0.0
        for word in query & set(words):
            rarity = math.log(1 + (len(self.words) - self.found_in[word] + 0.5) / (self.found_in[word] + 0.5))
            total += rarity * words[word] * 2.5 / (words[word] + 1.5 * (0.25 + 0.75 * length))
        return total


def main(folder: str, question: str, *model: str) -> None:
    files = sorted(Path(folder).glob("*.txt"))
    index = Index([{"id": f.stem, "title": f.name, "text": f.read_text(encoding="utf-8")} for f in files])
    documents = index.search(question, 3)
    print("found:", ", ".join(d["id"] for d in documents))
    if documents:
        with Model.load(*model) as loaded:
            answer = loaded.generate(question, documents=documents, cite=True, trim_documents=True, max_tokens=100)
            print(answer.text)
            for citation in answer.citations:
                print(f"  {citation.start}-{citation.end}: {citation.id}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
