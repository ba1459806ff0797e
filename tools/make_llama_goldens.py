"""Remake tests/data/llama_goldens.npz: what llama.cpp computes from the demo model's GGUF files.

    pip install llama-cpp-python && python tools/make_llama_goldens.py

For each type of file: the greedy tokens after every golden prompt, and the logits of the prompt's last tokens, float16.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np

from edge_lfm.demo import demo_checkpoint
from edge_lfm.export.gguf import write_gguf
from edge_lfm.export.source import open_source

DATA = Path(__file__).parent.parent / "tests" / "data"
TYPES = ("f16", "q8_0", "q4_0")
POSITIONS = 4


def load(path: Path, **options: int) -> llama_cpp.Llama:
    """The model without repacked weights: llama.cpp's AMX code crashes on experts of 64 columns."""
    defaults = llama_cpp.llama_cpp.llama_model_default_params

    def without_repacking() -> llama_cpp.llama_model_params:
        parameters = defaults()
        parameters.use_extra_bufts = False
        return parameters

    llama_cpp.llama_cpp.llama_model_default_params = without_repacking
    return llama_cpp.Llama(str(path), n_ctx=512, logits_all=True, verbose=False, n_threads=1, **options)


def main() -> None:
    prompts = json.loads((DATA / "demo_golden" / "golden.json").read_text(encoding="utf-8"))["prompts"]
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder, open_source(demo_checkpoint()) as source:
        for type_name in TYPES:
            path = Path(folder) / f"{type_name}.gguf"
            write_gguf(source, path, type_name)
            model = load(path)
            for name, prompt in prompts.items():
                ids = prompt["prompt_ids"]
                assert model.tokenize(prompt["prompt"].encode(), add_bos=False, special=True) == ids, name
                model.reset()
                model.eval(ids)
                arrays[f"{type_name}.{name}.logits"] = model.scores[len(ids) - POSITIONS : len(ids)].astype(np.float16)
                greedy = []
                for _ in prompt["greedy_ids"]:
                    greedy.append(int(model.scores[model.n_tokens - 1].argmax()))
                    model.eval(greedy[-1:])
                arrays[f"{type_name}.{name}.greedy"] = np.array(greedy, np.int32)
            model.close()
    np.savez_compressed(DATA / "llama_goldens.npz", **arrays)


if __name__ == "__main__":
    main()
