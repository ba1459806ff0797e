"""Readers of files from outside, each as a function of bytes that may raise `EdgeLfmError` and nothing else; and sound
files to begin from. Used by a test of the suite, and by `make fuzz`, which is guided by coverage (`fuzz.py`).
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from edge_lfm.architectures import read_shape
from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import EdgeLfmError
from edge_lfm.formats.file_list import LIST, changed_files
from edge_lfm.formats.gguf_checkpoint import GgufCheckpoint
from edge_lfm.formats.safetensors import SafetensorsFile, header_bytes
from edge_lfm.formats.strict import read_json, read_toml
from edge_lfm.kernels.load.prebuilt import read_manifest
from edge_lfm.measure.tasks import read_tasks
from edge_lfm.quantize.journal import Journal
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.text.template import ChatTemplate

SMALL = {
    "model_type": "lfm2_moe", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 32,
    "num_hidden_layers": 2, "layer_types": ["conv", "full_attention"], "num_attention_heads": 2,
    "num_key_value_heads": 1, "num_dense_layers": 1, "num_experts": 4, "num_experts_per_tok": 2,
    "rope_theta": 1e6,
}  # fmt: skip


def _safetensors(path: Path) -> None:
    with SafetensorsFile(path) as file:
        for name in file.tensors:
            file.read(name)


def _gguf(path: Path) -> None:
    with GgufCheckpoint(path) as checkpoint:
        checkpoint.describe()
        for name in checkpoint.names:
            checkpoint.read(name)


def _config(path: Path) -> None:
    read_shape(read_json(path), str(path))


def _recipe(path: Path) -> None:
    read_toml(path)
    find_recipe(str(path))


def _journal(path: Path) -> None:
    Journal(path, "f").close()


def _file_list(path: Path) -> None:
    path.rename(path.with_name(LIST))
    changed_files(path.parent)


def _template(path: Path) -> None:
    source = path.read_bytes().decode("utf-8", "replace")
    ChatTemplate(source, "<s>").render([{"role": "user", "content": "Hi"}])


_READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "safetensors": ("m.safetensors", _safetensors),
    "gguf": ("m.gguf", _gguf),
    "config": ("config.json", _config),
    "recipe": ("r.toml", _recipe),
    "journal": ("journal.jsonl", _journal),
    "manifest": ("kernels.json", read_manifest),
    "tasks": ("tasks.jsonl", read_tasks),
    "file_list": ("x.json", _file_list),
    "template": ("chat_template.jinja", _template),
}


def run(target: str, content: bytes) -> None:
    """One file through one reader."""
    name, read = _READERS[target]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        with suppress(EdgeLfmError):
            read(path)


TARGETS = tuple(_READERS)


@cache
def corpus(target: str) -> tuple[bytes, ...]:
    """Small sound files."""
    demo = demo_checkpoint()
    unit = {"index": 0, "checksum": 1, "error": 0.5, "signal": 1.0, "sources": ["a"], "feedback": [True]}
    manifest = dict.fromkeys(("target", "triple", "cpu", "features", "source", "version", "llvm", "sha256"), "x")
    manifest |= {"isa": "avx2", "machine": "x86_64", "requires": ["avx2"], "layout": 1, "file": "k.so"}
    return {
        "safetensors": (_sound_safetensors(),),
        "gguf": (_sound_gguf(),),
        "config": (json.dumps(SMALL).encode(), (demo / "config.json").read_bytes()),
        "recipe": tuple(p.read_bytes() for p in sorted(Path(find_recipe.__code__.co_filename).parent.rglob("*.toml"))),
        "journal": (b'{"fingerprint": "f"}\n' + json.dumps(unit).encode() + b"\n",),
        "manifest": (json.dumps(manifest).encode(),),
        "tasks": ((demo / "tasks.jsonl").read_bytes()[:2000].rpartition(b"\n")[0],),
        "file_list": (b'{"made_by": "edge-lfm", "files": {"config.json": null, "a": "00"}}',),
        "template": ((demo / "chat_template.jinja").read_bytes(), b"{{ messages[0].content * 2 }}{{ 2 ** 3 }}"),
    }[target]


def _sound_safetensors() -> bytes:
    head, _ = header_bytes([("a", "F32", (2, 3)), ("b", "BF16", (4,))], {"format": "pt"})
    return head + np.arange(8, dtype=np.float32).tobytes()


def _sound_gguf() -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    at = "lfm2."
    numbers = {"embedding_length": 32, "feed_forward_length": 64, "block_count": 1, "attention.head_count": 2}
    numbers |= {"shortconv.l_cache": 3, "context_length": 128}
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("lfm2")]
    keys += [text(at + key) + struct.pack("<II", 4, value) for key, value in numbers.items()]
    keys.append(text(f"{at}attention.head_count_kv") + struct.pack("<IIQi", 9, 5, 1, 1))
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 32, 4, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(keys) + tensor
    return head + bytes(-len(head) % 32) + np.ones(128, np.float32).tobytes()
