"""Fuzz one reader, guided by coverage, until it raises what it must not or the time is over; no target names all:

python tests/fuzz.py [TARGET [libFuzzer's options]]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main() -> None:
    if len(sys.argv) == 1:
        from fuzz_targets import TARGETS

        sys.stdout.write("\n".join(TARGETS) + "\n")
        return
    import atheris

    with atheris.instrument_imports(include=["edge_lfm.formats", "edge_lfm.architectures", "edge_lfm.quantize.recipe"]):
        from fuzz_targets import corpus, run
    target, *options = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        for n, content in enumerate(corpus(target)):
            (Path(folder) / str(n)).write_bytes(content)
        atheris.Setup([sys.argv[0], *options, folder], lambda content: run(target, content))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
