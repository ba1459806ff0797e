"""The official npm clients and transformers.js, where Node and the packages are installed (`make test-javascript`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from serving import serving

from edge_lfm.export.onnx import write_onnx
from edge_lfm.export.source import open_source

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PARIS = "The capital of France is Paris."
MODULES = Path(os.environ.get("EDGE_LFM_NODE_MODULES", ROOT / "build/javascript/node_modules"))


def found_by(package: str, script: str, demo: dict[str, Path], folder: Path) -> dict[str, Any]:
    """What a script finds that a client's package runs against a server of the demo model."""
    node = shutil.which("node")
    if node is None or not (MODULES / package).is_dir():
        pytest.skip(f"needs Node and the npm package {package} in {MODULES} (make test-javascript installs it)")
    shutil.copy(ROOT / "tests/javascript" / script, folder)
    (folder / "node_modules").symlink_to(MODULES)
    with serving(str(demo["int4"])) as address:
        done = subprocess.run([node, str(folder / script), address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_npm_client(demo: dict[str, Path], tmp_path: Path) -> None:
    found = found_by("openai", "openai_client.mjs", demo, tmp_path)
    assert found["whole"] == found["streamed"] == found["helper"] == PARIS
    assert found["tokens"] > 5 and found["call"]["name"] and isinstance(json.loads(found["call"]["arguments"]), dict)
    assert found["completion"] and "Anna" in found["response"]
    assert found["events"][0] == "response.created" and found["events"][-1] == "response.completed"
    assert found["refused"][:2] == ["BadRequestError", 400] and "temperature" in found["refused"][2]


def test_anthropics_npm_client(demo: dict[str, Path], tmp_path: Path) -> None:
    found = found_by("@anthropic-ai/sdk", "anthropic_client.mjs", demo, tmp_path)
    assert found["whole"] == found["streamed"] == PARIS and found["ended"] == "end_turn"
    assert found["counted"] > 10 and found["tokens"] > 5
    assert (found["events"][0], found["events"][-1]) == ("message_start", "message_stop")
    assert found["call"]["name"] == "get_weather" and isinstance(found["call"]["input"]["city"], str)
    assert found["refused"][:2] == ["BadRequestError", 400] and "max_tokens" in found["refused"][2]


def test_ollamas_npm_client(demo: dict[str, Path], tmp_path: Path) -> None:
    found = found_by("ollama", "ollama_client.mjs", demo, tmp_path)
    assert found["whole"] == found["streamed"] == found["generated"] == PARIS
    assert found["call"]["name"] == "get_weather" and isinstance(found["call"]["arguments"]["city"], str)
    assert isinstance(found["bound"]["city"], str) and "tools" in found["able"]
    assert found["refused"][0] == 400 and "temperature" in found["refused"][1]


def test_transformers_js_generates(demo: dict[str, Path], demo_goldens: dict[str, dict], tmp_path: Path) -> None:
    """The exported graph under the names, and in the folders, that transformers.js looks for."""
    node = shutil.which("node")
    if node is None or not (MODULES / "@huggingface/transformers").is_dir():
        pytest.skip(f"needs Node and @huggingface/transformers in {MODULES} (make test-javascript installs it)")
    folder = tmp_path / "models" / "demo"
    with open_source(demo["int4"]) as source:
        write_onnx(source, folder, "float32")
    (folder / "onnx").mkdir()
    for path in folder.glob("model.onnx*"):
        path.rename(folder / "onnx" / path.name)
    script = tmp_path / "transformers_js.mjs"
    shutil.copy(ROOT / "tests/javascript/transformers_js.mjs", script)
    (tmp_path / "node_modules").symlink_to(MODULES)
    prompt = demo_goldens["capital"]
    ids, greedy = prompt["prompt_ids"], prompt["greedy_ids"]
    line = [node, str(script), str(tmp_path / "models"), "demo", json.dumps(ids), str(len(greedy))]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ids + greedy
