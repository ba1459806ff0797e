"""The official npm client, where Node and its package `openai` are installed (`make test-javascript`)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from serving import serving

ROOT = Path(__file__).parent.parent
MODULES = Path(os.environ.get("EDGE_LFM_NODE_MODULES", ROOT / "build/javascript/node_modules"))


def test_the_npm_client(demo: dict[str, Path], tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not (MODULES / "openai").is_dir():
        pytest.skip(f"needs Node and the npm package openai in {MODULES} (make test-javascript installs it)")
    script = tmp_path / "client.mjs"
    shutil.copy(ROOT / "tests/javascript/openai_client.mjs", script)
    (tmp_path / "node_modules").symlink_to(MODULES)
    with serving(str(demo["int4"])) as address:
        done = subprocess.run([node, str(script), address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    paris = "The capital of France is Paris."
    assert found["whole"] == found["streamed"] == found["helper"] == paris
    assert found["tokens"] > 5 and found["call"]["name"] and isinstance(json.loads(found["call"]["arguments"]), dict)
    assert found["completion"] and "Anna" in found["response"]
    assert found["events"][0] == "response.created" and found["events"][-1] == "response.completed"
    assert found["refused"][:2] == ["BadRequestError", 400] and "temperature" in found["refused"][2]
