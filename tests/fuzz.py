"""Fuzz one reader, guided by coverage, until it raises what it must not or the time is over; no target names all:

python tests/fuzz.py [TARGET [libFuzzer's options]]

What reached new code is kept in `build/fuzz/`, and the next run begins from there; beside it what a target failed on.
"""

from __future__ import annotations

import sys
from pathlib import Path

KEPT = Path(__file__).parent.parent / "build" / "fuzz"


def main() -> None:
    if len(sys.argv) == 1:
        from fuzz_targets import TARGETS

        sys.stdout.write("\n".join(TARGETS) + "\n")
        return
    import atheris

    with atheris.instrument_imports(include=["edge_lfm.formats", "edge_lfm.architectures", "edge_lfm.quantize.recipe"]):
        from fuzz_targets import corpus, run
    target, *options = sys.argv[1:]
    kept = KEPT / target
    kept.mkdir(parents=True, exist_ok=True)
    for n, content in enumerate(corpus(target)):
        (kept / f"sound-{n}").write_bytes(content)
    options = [f"-artifact_prefix={KEPT}/{target}-", *options]
    atheris.Setup([sys.argv[0], *options, str(kept)], lambda content: run(target, content))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
