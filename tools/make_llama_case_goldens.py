"""Remake tests/data/llama_cases.npz: what two builds of llama.cpp compute from GGUF files of the tiny random models.

    pip install llama-cpp-python==0.3.36
    npm install --prefix build/llama_wasm @wllama/wllama@3.13.0 node@26
    PYTHONPATH=tests python tools/make_llama_case_goldens.py

For each golden case that GGUF can hold, exported by edge-lfm with float32 weights: the log-probabilities of all tokens
after the last ones of its prompt, [POSITIONS, vocabulary] float32, by the package for Python (`native.CASE`) and by the
build for browsers (`wasm.CASE`), which is newer and knows families that the other does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from conftest import GOLDEN_CASES, goldens_tool, write_checkpoint

from edge_lfm.architectures import family_of, read_shape
from edge_lfm.export.gguf import problems_of, write_gguf
from edge_lfm.export.source import open_source

ROOT = Path(__file__).resolve().parent.parent
OUT, MODULES = ROOT / "tests/data/llama_cases.npz", ROOT / "build/llama_wasm"
POSITIONS = 8
UNKNOWN_TO_NATIVE = ("lfm3",)
"""Families that came after the package for Python."""


ROUNDED = ("gpt_oss-window-beyond-the-prompt",)
"""Cases whose YaRN llama.cpp computes with a ramp that begins and ends at whole pairs, whatever a model says."""
ALL_CASES = GOLDEN_CASES | goldens_tool.LLAMA_CASES


def native(path: Path, ids: list[int]) -> np.ndarray:
    from make_llama_goldens import load

    model = load(path, type_k=0, type_v=0)  # keys and values in float32
    model.eval(ids)
    logits = model.scores[len(ids) - POSITIONS : len(ids)].astype(np.float64)
    model.close()
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def wasm(path: Path, ids: list[int]) -> np.ndarray:
    node, script = str(MODULES / "node_modules/node/bin/node"), str(ROOT / "tools/llama_wasm.mjs")
    command = [node, script, str(path), json.dumps(ids), str(POSITIONS)]
    return np.array(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=MODULES).stdout))


def exportable() -> list[str]:
    """Cases that llama.cpp's code of their family computes in the same way."""
    sound = {case: not problems_of(family_of(raw).gguf, read_shape(raw)) for case, raw in ALL_CASES.items()}
    return [case for case in sound if sound[case] and case not in ROUNDED]


def write_case(folder: Path, raw: dict[str, Any]) -> Path:
    """The case as a GGUF file, with a vocabulary that spells each id as <tN>."""
    spelling, names = family_of(raw).gguf, [f"<t{n}>" for n in range(raw["vocab_size"])]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    isolated = {"type": "Split", "behavior": "Isolated", "invert": False}
    splits = [isolated | {"pattern": {"Regex": pattern}} for pattern in spelling.split]
    tokenizer = {
        "added_tokens": [{"id": n, "content": name, **flags} for n, name in enumerate(names)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, level]},
        "model": {"type": "BPE", "vocab": {name: n for n, name in enumerate(names)}, "merges": ["<t0> <t1>"]},
    }
    checkpoint = write_checkpoint(folder / "checkpoint", raw)
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<t7>", "add_bos_token": False}))
    with open_source(checkpoint) as source:
        write_gguf(source, folder / "model.gguf", "f32")
    return folder / "model.gguf"


def main() -> None:
    builds: dict[str, Callable[[Path, list[int]], np.ndarray]] = {"native": native, "wasm": wasm}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", nargs="*", choices=builds, default=list(builds), help="the other's stay as they are")
    parser.add_argument("--case", nargs="*", choices=exportable(), default=exportable())
    args = parser.parse_args()
    arrays = dict(np.load(OUT)) if OUT.exists() else {}
    for case in args.case:
        raw, ids = ALL_CASES[case], goldens_tool.token_ids(case).tolist()
        with tempfile.TemporaryDirectory() as folder:
            path = write_case(Path(folder), raw)
            for build in args.build:
                if build == "native" and raw["model_type"] in UNKNOWN_TO_NATIVE:
                    continue
                arrays[f"{build}.{case}"] = builds[build](path, ids).astype(np.float32)
        print(case, flush=True)
    np.savez_compressed(OUT, **arrays)


if __name__ == "__main__":
    main()
