"""The picture of README.md from a table of docs/performance.md: python tools/speed_picture.py."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs/images/beside_llama_cpp.svg"
_TABLE = "lfm2-24b-a2b, edge-lfm balanced beside llama.cpp Q4_0"
_TESTS = {"pp512@0": "prefill of 512 tokens", "tg32@0": "decode"}
_THREADS = 2
_WIDTH, _BAR, _LEFT, _LONGEST = 720, 22, 180, 440


def speeds() -> dict[str, tuple[float, float]]:
    """test -> tokens a second of edge-lfm and of llama.cpp, with two threads."""
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    section = text[text.index(_TABLE) :].partition("`python benchmarks")[0]
    rows = re.findall(rf"^\| ([\w@]+) \| {_THREADS} \| ([\d.]+) \| ([\d.]+) \|", section, re.MULTILINE)
    return {test: (float(ours), float(theirs)) for test, ours, theirs in rows}


def picture() -> str:
    """Two bars for each test, in one scale for each test: SVG that is legible on light and on dark pages."""
    parts, y = [], 34
    for test, title in _TESTS.items():
        pair = speeds()[test]
        for name, value, color in zip(("edge-lfm", "llama.cpp"), pair, ("#2a7de1", "#9aa4b1"), strict=True):
            width = round(_LONGEST * value / max(pair))
            label = f"{title}, {name}" if name == "edge-lfm" else name
            parts.append(f'<text x="{_LEFT + 36}" y="{y + 16}" text-anchor="end">{label}</text>')
            parts.append(f'<rect x="{_LEFT + 44}" y="{y}" width="{width}" height="{_BAR}" fill="{color}"/>')
            parts.append(f'<text x="{_LEFT + 52 + width}" y="{y + 16}">{value:g}</text>')
            y += _BAR + 6
        y += 12
    head = "LFM2-24B-A2B shape, 4 bits, tokens a second, two threads of an AMD Zen 4 server"
    style = "text{font:14px sans-serif;fill:#6b7684}"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" role="img" aria-label="{head}">',
        f"<style>{style}</style>", f'<text x="8" y="18">{head}</text>', *parts, "</svg>", "",
    ])  # fmt: skip


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
