"""LFM2.5's vocabulary: 128,000 rows, control tokens from 124893 on, several ends of an answer, one start of a text.

A tiny random model as `tools/make_vocabulary_goldens.py` describes it, with the demo model's words spread over it.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conftest import DATA, load_tool, write_checkpoint
from test_reference import reference_of

from edge_lfm import Model
from edge_lfm.demo import demo_checkpoint
from edge_lfm.export.gguf import write_gguf
from edge_lfm.export.source import open_source
from edge_lfm.formats.checkpoint import TOKENIZER_FILES
from edge_lfm.formats.gguf import GgufFile
from edge_lfm.quantize.convert import convert
from edge_lfm.quantize.recipe import find_recipe

pytestmark = pytest.mark.slow

MESSAGES = [{"role": "user", "content": "<|startoftext|>hi"}]
FLOAT16_STEP = 2.0**-11


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("make_vocabulary_goldens")


@pytest.fixture(scope="module")
def checkpoint(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("vocabulary") / "checkpoint", tool.CONFIG)
    for name in TOKENIZER_FILES:
        if (demo_checkpoint() / name).exists():
            (folder / name).write_bytes((demo_checkpoint() / name).read_bytes())
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    control = [added["content"] for added in raw["added_tokens"]]
    words = [word for word in raw["model"]["vocab"] if word not in control]
    places = {"<|pad|>": tool.PAD, "<|startoftext|>": tool.BOS, "<|im_end|>": tool.END}
    free = (n for n in range(tool.PAD, tool.LAST) if n not in places.values())
    ids = {word: n for n, word in enumerate(words)} | {text: places.get(text) or next(free) for text in control}
    raw["model"]["vocab"] = ids | {f"word{n}": n for n in range(len(words), tool.PAD)}
    raw["added_tokens"] = [added | {"id": ids[added["content"]]} for added in raw["added_tokens"]]
    (start,) = [step for step in raw["post_processor"]["processors"] if step["type"] == "TemplateProcessing"]
    start["special_tokens"]["<|startoftext|>"]["ids"] = [tool.BOS]
    (folder / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")
    generation = {"bos_token_id": tool.BOS, "eos_token_id": [tool.END, tool.PAD]}
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def goldens() -> dict[str, np.ndarray]:
    with np.load(DATA / "vocabulary.npz") as arrays:
        return dict(arrays)


def test_the_reference_equals_transformers(checkpoint: Path, tool: ModuleType, goldens: dict[str, np.ndarray]) -> None:
    logits, expected = reference_of(checkpoint).logits(tool.IDS), goldens["logits"]
    assert np.abs(logits[:, tool.COLUMNS] - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.array_equal(logits.argmax(1), goldens["best"])


@pytest.mark.parametrize("way", ["checkpoint", "gguf"])
def test_the_engine_equals_transformers_and_ends_and_begins_as_the_files_say(
    way: str, checkpoint: Path, tool: ModuleType, goldens: dict[str, np.ndarray], tmp_path: Path
) -> None:
    source = checkpoint
    if way == "gguf":
        source = tmp_path / "m.gguf"
        with open_source(checkpoint) as opened:
            write_gguf(opened, source, "f32")
        with GgufFile(source) as file:
            ends = [file.metadata[f"tokenizer.ggml.{key}_token_id"] for key in ("bos", "eos", "eot")]
            assert ends == [tool.BOS, tool.END, tool.PAD]
            assert file.metadata["lfm2moe.rope.freq_base"] == 5e6
    convert(source, tmp_path / "packed", find_recipe("float32"))
    with Model.load(tmp_path / "packed", threads=1) as model:
        found, expected = model.logits(tool.IDS.tolist())[:, tool.COLUMNS], goldens["logits"]
        assert np.abs(found - expected).max() <= FLOAT16_STEP * np.abs(expected).max()
        assert model.stop_ids == (tool.PAD, tool.END)
        for text in ("hi", "<|startoftext|>hi"):
            assert model.tokenizer.encode(text, bos=True, special=True).count(tool.BOS) == 1
        ids = model.template.encode(MESSAGES, model.tokenizer)
        assert ids[0] == tool.BOS and ids.count(tool.BOS) == 1
