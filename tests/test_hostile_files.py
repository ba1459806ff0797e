"""Files of any content: read within bounds, or refused with one line that names the place; never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from fuzz_targets import TARGETS, corpus, run
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from edge_lfm.cli.main import main
from edge_lfm.demo import demo_checkpoint
from edge_lfm.errors import IsaError, ModelFileError, OutputError, TemplateError, UsageError
from edge_lfm.formats.safetensors import SafetensorsFile
from edge_lfm.formats.strict import MAX_DEPTH, parse_json, read_bytes, read_json, read_toml
from edge_lfm.kernels.load.library import load_kernels
from edge_lfm.kernels.load.prebuilt import read_manifest
from edge_lfm.kernels.spec.schemes import SCHEMES
from edge_lfm.measure.tasks import read_tasks
from edge_lfm.memory.forecast import read_forecast
from edge_lfm.memory.policy import HALF_LIVES, HORIZONS
from edge_lfm.quantize.journal import Journal
from edge_lfm.quantize.pack import encode
from edge_lfm.quantize.recipe import find_recipe
from edge_lfm.text.template import ChatTemplate
from edge_lfm.text.tokenizer import Tokenizer

JSON = {
    "nested": b"[" * 100_000,
    "nested and closed": b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
    "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "an integer of 50 digits": b'{"a": ' + b"9" * 50 + b"}",
    "an exponent": b'{"a": 1e999}',
    "NaN": b'{"a": NaN}',
    "a name twice": b'{"a": 1, "a": 2}',
    "half a character": b'{"a": "\\ud800"}',
    "half a character in a name": b'{"\\udfff": 1}',
    "Latin-1": b'{"a": "\xe9"}',
    "nothing": b"",
    "zeros": bytes(100),
}


@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
def test_json_is_read_strictly(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        parse_json(content)
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"config\.json"):
        read_json(path)


def test_sound_json_is_read_as_it_is() -> None:
    value = {"a": [1, -2.5, "\u00e9\U0001f600", None, True, {"b": 2**63, "model_max_length": 10**30}]}
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


def test_only_regular_files_of_a_sane_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(bytes(101))
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path, tmp_path / "large", Path("a\0b"), Path("a\ud800b")):
        with pytest.raises(ModelFileError):
            read_bytes(path, max_bytes=100)


def header(entries: dict[str, object], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "entries",
    [
        {"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": {"F32": 1}, "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [10**4000, 10**4000], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1] * 5000, "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": {"0": 1}, "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, [4]]}},
        {"__metadata__": [1], "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"__metadata__": {"a": 1}, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
    ],
    ids=lambda entries: str(entries)[:60],
)
def test_headers_with_values_of_other_types(entries: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(header(entries, bytes(4)))
    with pytest.raises(ModelFileError, match=r"m\.safetensors"):
        SafetensorsFile(path)


def gguf(metadata: bytes, keys: int, tensors: list[tuple[str, tuple[int, ...], int]], data: int) -> bytes:
    """A GGUF file of F32 tensors (name, ggml's shape, offset) over so many bytes of data."""
    entries = b"".join(
        struct.pack("<Q", len(name.encode())) + name.encode() + struct.pack("<I", len(shape))
        + b"".join(struct.pack("<Q", n) for n in shape) + struct.pack("<IQ", 0, offset)
        for name, shape, offset in tensors
    )  # fmt: skip
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), keys) + metadata + entries
    return head + bytes(-len(head) % 32) + bytes(data)


def text(key: str, value: str) -> bytes:
    return b"".join((struct.pack("<Q", len(key)), key.encode(), struct.pack("<IQ", 8, len(value)), value.encode()))


MOE = text("general.architecture", "lfm2moe")
GGUF = {
    "an architecture that is a list": gguf(
        struct.pack("<Q", 20) + b"general.architecture" + struct.pack("<IIQB", 9, 0, 1, 7), 1, [], 0
    ),
    "a layer of 5000 digits": gguf(MOE, 1, [(f"blk.{'9' * 5000}.attn_q.weight", (1,), 0)], 64),
    "digits of another script": gguf(MOE, 1, [("blk.\u0663.attn_q.weight", (1,), 0)], 64),
    "a name with a line break": gguf(MOE, 1, [("blk.0\n.attn_q.weight", (1,), 0)], 64),
    "no name": gguf(MOE, 1, [("", (1,), 0)], 64),
    "two spellings of one layer": gguf(
        MOE, 1, [("blk.1.attn_q.weight", (1,), 0), ("blk.01.attn_q.weight", (1,), 32)], 64
    ),
    "tensors over each other": gguf(
        MOE, 1, [(f"blk.{n}.ffn_gate_exps.weight", (1, 1, 4096), 0) for n in range(1000)], 1 << 14
    ),
    "more experts than there can be": gguf(MOE, 1, [("blk.0.ffn_gate_exps.weight", (1, 1, 1 << 17), 0)], 1 << 19),
}


@pytest.mark.parametrize("content", GGUF.values(), ids=GGUF)
def test_gguf_files_that_lie(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    assert main(["quantize", str(path), "-o", str(tmp_path / "m")]) == 3
    error = capsys.readouterr().err
    assert "m.gguf" in error and error.count("\n") == 1


def test_names_in_an_index_are_names_of_files(tmp_path: Path) -> None:
    for name in ("a\0.safetensors", "a/b.safetensors", "\ud800.safetensors", "a" * 300, "\n"):
        folder = tmp_path / "m"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(demo_checkpoint() / "config.json", folder)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
        assert main(["quantize", str(folder), "-o", str(tmp_path / "o")]) == 3


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", JSON.values(), ids=JSON)
def test_files_beside_a_model(
    name: str, content: bytes, packed_cases: dict[str, dict[str, Path]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    model = tmp_path / "m"
    shutil.copytree(packed_cases["int4"]["dense"], model)
    shutil.copy(demo_checkpoint() / "tokenizer.json", model)
    (model / name).write_bytes(content)
    assert main(["run", str(model), "Hello", "--raw", "-n", "1"]) == 3
    error = capsys.readouterr().err
    assert name in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "source",
    [b"\xff\xfe", b"{{ 10 ** (10 ** 9) }}", b"{{ 'a' * 10000000000 }}", b"{{ " + b"(" * 5000, b"x" * (1 << 21)],
    ids=lambda source: repr(source[:20]),
)
def test_templates(source: bytes, tmp_path: Path) -> None:
    shutil.copy(demo_checkpoint() / "tokenizer.json", tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(source)
    with pytest.raises(TemplateError):
        template = ChatTemplate.load(tmp_path, Tokenizer(tmp_path))
        assert template is not None
        template.render([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    "content",
    [
        "a = " + "[" * 5000,
        "[schemes]\nexperts = []",
        "[schemes]\nexperts = {a = 1}",
        "schemes = 1",
        "a = " + "9" * 5000,
        "# " + "x" * (1 << 17),
    ],
    ids=lambda content: content[:30],
)
def test_recipes(content: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match="recipe"):
        find_recipe(str(path))
    (tmp_path / "latin.toml").write_bytes(b'summary = "\xe9"')
    with pytest.raises(ModelFileError, match="UTF-8"):
        read_toml(tmp_path / "latin.toml")


def test_the_encoder_takes_an_importance_for_every_column_only() -> None:
    """Compiled code would read what lies behind a shorter one."""
    kernels, w = load_kernels(), np.ones((32, 256), np.float32)
    for shape in ((1,), (255,), (257,), (1, 256), ()):
        with pytest.raises(ModelFileError, match="256 columns"):
            encode(w, SCHEMES["int8_g32"], kernels, importance=np.ones(shape, np.float32))
    encode(w, SCHEMES["int8_g32"], kernels, importance=np.ones(256, np.float32))


def test_forecasts(tmp_path: Path) -> None:
    shape = (len(HORIZONS), 2, 1 + (2 + len(HALF_LIVES)) * 4, 4)
    good = np.ones(shape, np.float16)
    path = tmp_path / "forecast.safetensors"
    save_file({"weights": good}, path)
    assert np.array_equal(read_forecast(path, 2, 4), good)
    for value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad[1, 1, 3, 2] = value
        save_file({"weights": bad}, path)
        with pytest.raises(ModelFileError, match="NaN or infinity"):
            read_forecast(path, 2, 4)
    for other in (good[:, :1], good.astype(np.float32), good.view(np.uint16)):
        save_file({"weights": np.ascontiguousarray(other)}, path)
        with pytest.raises(ModelFileError):
            read_forecast(path, 2, 4)


@pytest.mark.parametrize(
    "line",
    [b"[" * 10_000, b"{}", b'{"index": 1}', b"\xff", b"5", b'{"index": [1], "checksum": 0, "error": 0, "signal": 0, '
     b'"sources": [], "feedback": []}', b'{"index": 1, "checksum": 0, "error": "x", "signal": 0, "sources": [], '
     b'"feedback": []}'],
    ids=lambda line: repr(line[:20]),
)  # fmt: skip
def test_journals(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"fingerprint": "f"}\n' + line + b"\n")
    with pytest.raises(OutputError, match=r"journal\.jsonl is no journal"):
        Journal(path, "f")


def test_manifests_and_task_files(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    for content in (*JSON.values(), b"[]", b'{"requires": 5}', b'{"requires": [[1]], "file": "../x.so"}'):
        path.write_bytes(content)
        with pytest.raises(IsaError):
            read_manifest(path)
        with pytest.raises(UsageError):
            read_tasks(path)
    sample = {"task": "t", "prompt": "p", "max_tokens": 1, "check": "exec", "expect": 5, "answer": ""}
    for wrong in ({}, {"prompt": 5}, {"max_tokens": "1"}, {"check": "story"}, {"check": [1]}, {"extra": 1}):
        path.write_text(json.dumps(sample | wrong))
        with pytest.raises(UsageError):
            read_tasks(path)


@pytest.mark.parametrize("target", TARGETS)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_damage_at_random_places(target: str, data: st.DataObject) -> None:
    """Every reader on sound files with bytes changed, cut and doubled (`make fuzz` does it for longer, by coverage)."""
    seeds = corpus(target)
    content = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=8))
    run(target, bytes(content))
