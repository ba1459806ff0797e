"""Time to the first token of a document and a question, in a chat and from the server, with and without reuse.

    python benchmarks/first_token.py MODEL docs/server.md --words 2000

The first question brings the document, the second one is about the same document. The server's second request repeats
the document with another question, from a client that knows nothing of the first. Needs a model with a tokenizer; of
random weights any answer will do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from edge_lfm.api import Model
from edge_lfm.engine.events import Progress

QUESTIONS = ("What is this about?", "Which sentence is the longest?")


def chat(model: Path, document: str, threads: int) -> tuple[int, list[float]]:
    """Tokens of the first prompt, and seconds to the first piece of each answer."""
    seconds, tokens = [], 0
    with Model.load(model, threads=threads) as loaded:
        session = loaded.session()
        for n, question in enumerate(QUESTIONS):
            content = question if n else f"{document}\n\n{question}"
            started = time.perf_counter()
            generation = session.stream(content, max_tokens=4, temperature=0)
            next((event for event in generation if not isinstance(event, Progress)), None)
            seconds.append(time.perf_counter() - started)
            for _ in generation:
                pass
            tokens = tokens or generation.result().timings.prompt_tokens
    return tokens, seconds


def ask(address: str, content: str) -> float:
    """Seconds to the first event of a streamed answer that has text, or to its end."""
    body = {"messages": [{"role": "user", "content": content}], "stream": True, "max_tokens": 4, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(), headers)
    started, first = time.perf_counter(), None
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:
            if line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                first = first or time.perf_counter()
    return (first or time.perf_counter()) - started


def serve(model: Path, document: str, threads: int) -> list[float]:
    """The same from the server, whose second request has the whole document too."""
    command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "serve", str(model), "--port", "0", "--json",
               "--threads", str(threads)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            address = json.loads(server.stdout.readline())["address"]
            return [ask(address, f"{document}\n\n{question}") for question in QUESTIONS]
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("document", type=Path)
    parser.add_argument("--words", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    document = " ".join(args.document.read_text(encoding="utf-8").split()[: args.words])
    tokens, (cold, warm) = chat(args.model, document, args.threads)
    print(f"{args.words} words, {tokens} tokens\n\n| | first question, s | second question, s |\n|---|---|---|")
    print(f"| chat | {cold:.2f} | {warm:.2f} |", flush=True)
    cold, warm = serve(args.model, document, args.threads)
    print(f"| server | {cold:.2f} | {warm:.2f} |")


if __name__ == "__main__":
    main()
