"""What an editor's plugin does: the text that belongs at a cursor: python editor.py FILE LINE [ADDRESS]

Sends what stands before and behind the line to /v1/completions. Plugins that speak OpenAI's or Ollama's interface
(Continue, CodeCompanion, ...) are given the server's address and do the same.
"""

import json
import sys
import urllib.request
from pathlib import Path


def complete(before: str, behind: str, address: str) -> str:
    body = {"prompt": before, "suffix": behind, "max_tokens": 40, "temperature": 0, "stop": ["\n\n"]}
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["text"]


def main(file: str, line: str, address: str = "http://127.0.0.1:8080") -> None:
    lines = Path(file).read_text(encoding="utf-8").splitlines(keepends=True)
    before, behind = lines[: int(line) - 1], lines[int(line) :]
    print(complete("".join(before), "".join(behind), address))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
