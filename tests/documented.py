"""The command lines of the documents, and a folder in which they run: the demo model under every model's name."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from textwrap import indent

from conftest import ROOT
from drafting import tool as drafters
from drafting import write_drafter

from edge_lfm.cli.main import main
from edge_lfm.cli.parsing import VERBS, verb_parser
from edge_lfm.demo import demo_checkpoint

TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.md"))
_DOCUMENTS = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *TUTORIALS,
    ROOT / "edge_lfm/demo_model/README.md",
)
_TEXT = "The museum is old. It has seventy rooms, and the garden is open in summer. " * 40
_SCHEMA = '{"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}'
_FILES = {
    "my.txt": _TEXT,
    "calibration.txt": _TEXT,
    "wiki.test.raw": _TEXT,
    "groups_merged.txt": _TEXT,
    "manual.txt": "Press the red button for five seconds to reset the lamp.",
    "notes.txt": "The lamp is in the hall.",
    "orders.txt": "Order by Anna: 5 x cup.\n",
    "order.json": _SCHEMA,
    "requests.jsonl": '{"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Hello"}}\n',
    "program.py": "def add(a, b):\n" + "    # one of twelve lines\n" * 10 + "    return\n",
}
_NAMES = {
    "checkpoint": ("path/to/LFM2-24B-A2B", "edge_lfm/demo_model", "LFM2-24B-A2B", "FOLDER", "DIR"),
    "packed": ("lfm2-24b", "lfm2-24b-int4", "lfm2-24b-q", "lfm2-8b", "synth-24b", "MODEL"),
    "gguf": ("LFM2-8B-A1B-Q4_0.gguf", "FILE.gguf"),
    "onnx": ("lfm2-8b-onnx",),
    "calibration": ("calibration",),
    "drafter": ("path/to/DRAFTER",),
    "packed drafter": ("DRAFTER-PACKED",),
}
"""What is made of the demo model -> the names that documents have for it."""
_STAND_INS = {
    "synth lfm2-24b-a2b": "synth lfm2-350m",  # 12.8 GB
    "synth lfm2-8b-a1b": "synth lfm2-350m",  # 4.5 GB
    "synth NAME": "synth lfm2-350m -o OUT",
    "fit NAME": "fit lfm2-350m",
    "--port 8080": "--port 0",
    "--port 8124 &": "--port 0",
    "/usr/bin/time -v ": "",
    "read|map": "map",
    "[--ram SIZE]": "--ram 4G",
    "[--type q8_0]": "--type q8_0",
    "NAME": "rpi5-8g",
    "REPO": "LiquidAI/LFM2-24B-A2B",
    "RECIPE": "int4",
    "VERB": "run",
}
"""Part of a line -> what stands for it, where it is no name of a file."""
CANNOT_RUN = {
    "edge-lfm bundle": "fetches wheels from the network; tests/test_bundle.py makes and installs one",
    "edge-lfm compile --target": "compiles for a minute; tests/test_prebuilt.py compiles and loads every tier",
    "edge-lfm batch requests.jsonl /srv/": "needs a cluster; tests/test_batch_cluster.py makes one",
    "EDGE_LFM_KERNELS=kernels": "needs what the line before it compiles; tests/test_prebuilt.py runs such kernels",
}
"""How a line begins -> why it is not run."""


def _texts() -> list[str]:
    """The documents, every block of code indented, and lines that go on joined."""
    fenced = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
    texts = [document.read_text(encoding="utf-8").replace("\\\n", " ") for document in _DOCUMENTS]
    return [fenced.sub(lambda block: indent(block[1], " " * 4) + "\n", text) for text in texts]


def documented_lines() -> list[str]:
    """Every command line of edge-lfm once: in --help, in blocks of code, and in running text if it has arguments."""
    lines = [verb_parser(name).EXAMPLE for name in VERBS]
    for text in _texts():
        lines += re.findall(r"^ {4,}(?:\$ )?((?:[A-Z_]+=\S+ )?edge-lfm .*)$", text, re.MULTILINE)
        lines += re.findall(r"`(edge-lfm \w+ [^`]+)`", text)
    return list(dict.fromkeys(line.split("  #")[0].strip() for line in lines))


def documented_outputs() -> dict[str, str]:
    """Command line -> the output that a document shows below it, up to an ellipsis."""
    blocks = [
        block
        for text in _texts()
        for block in re.findall(r"^ {4,}\$ (edge-lfm .*)\n((?: {4,}.*\n)+)", text, re.MULTILINE)
    ]
    return {line: re.sub(r"^    ", "", output.partition(" ...\n")[0], flags=re.MULTILINE) for line, output in blocks}


def with_stand_ins(line: str) -> str:
    """The line as it can run anywhere."""
    for part, stand_in in _STAND_INS.items():
        line = line.replace(part, stand_in)
    return line


def make_originals(folder: Path) -> dict[str, Path]:
    """The demo model in each of the forms that documented lines read."""
    made = {form: folder / form for form in _NAMES}
    shutil.copytree(demo_checkpoint(), made["checkpoint"])
    (folder / "text").write_text(_TEXT, encoding="utf-8")
    shape = {"hidden_size": 256, "vocab_size": 4096}
    layers = {"mask_token_id": 0, "target_layer_ids": [2, 3, 4], "num_target_layers": 8}
    write_drafter(made["drafter"], drafters.config_of("one-layer") | shape | {"dflash_config": layers})
    for command in (
        ["quantize", made["checkpoint"], "--recipe", "int4", "-o", made["packed"]],
        ["export", made["packed"], "--format", "gguf", "-o", made["gguf"]],
        ["export", made["packed"], "--format", "onnx", "-o", made["onnx"]],
        ["calibrate", made["checkpoint"], "--text", folder / "text", "--keep-inputs", "-o", made["calibration"]],
        ["quantize", made["drafter"], "--target", made["packed"], "-o", made["packed drafter"]],
    ):
        assert main([str(word) for word in command]) == 0
    return made


def lay_out(folder: Path, originals: dict[str, Path], line: str) -> None:
    """Fill `folder` with every file and model that documents name, but for those that the line makes."""
    made_here = set(re.findall(r"(?:-o |pull \w+/)(\S+)", line))
    for name, content in _FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    if re.search(r"edge-lfm (?:list|rm|run LiquidAI)", line):
        shutil.copytree(originals["packed"], folder / "models/LiquidAI/LFM2-24B-A2B")
    for form, names in _NAMES.items():
        for name in set(names) - made_here:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(originals[form])
