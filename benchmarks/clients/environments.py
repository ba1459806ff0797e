"""The clients of clients.toml, each installed in a folder of its own, and its script run there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDER = HERE.parent.parent / "build" / "clients"
LIMIT_S = 180


@dataclass(frozen=True)
class Client:
    """A row of clients.toml. index: pypi or npm; core: tested in CI."""

    name: str
    index: str
    packages: tuple[str, ...]
    script: str
    core: bool = False

    @property
    def folder(self) -> Path:
        return FOLDER / self.name

    @property
    def installed(self) -> bool:
        """Whether an installation has ended well."""
        return (self.folder / ".complete").exists()

    @property
    def version(self) -> str:
        """Of the client's own package; "" if it is not installed."""
        package = self.packages[0].partition("[")[0]
        if self.index == "npm":
            described = self.folder / "node_modules" / package / "package.json"
            return json.loads(described.read_text(encoding="utf-8"))["version"] if described.exists() else ""
        stem = package.replace("-", "_")
        found = next(self.folder.glob(f"lib/python*/site-packages/{stem}-*.dist-info"), None)
        return found.name.removeprefix(f"{stem}-").removesuffix(".dist-info") if found else ""

    def install(self) -> str:
        """Install it, unless it is there. Returns: what went wrong, or ""."""
        if self.installed:
            return ""
        self.folder.mkdir(parents=True, exist_ok=True)
        for command in self._npm() if self.index == "npm" else self._pypi():
            done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder, check=False)
            if done.returncode:
                return (done.stderr.strip() or done.stdout.strip() or f"{command[0]}: {done.returncode}")[-300:]
        (self.folder / ".complete").touch()
        return ""

    def ask(self, address: str) -> Iterator[dict[str, Any]]:
        """What its scenarios give, as its script tells it; a script that fails, or takes too long, says so last."""
        for shared in ("scenarios.mjs", "scenarios.json", self.script):  # JavaScript finds packages beside the script
            if self.script.endswith(".mjs"):
                shutil.copy(HERE / shared, self.folder)
        python = [sys.executable if self.index == "npm" else str(self.folder / "bin/python"), str(HERE / self.script)]
        command = ["node", self.script] if self.script.endswith(".mjs") else python
        try:
            done = subprocess.run(
                [*command, address, str(self.folder)],
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                cwd=self.folder,
                check=False,
            )
            out, fault = done.stdout, done.stderr[-500:] if done.returncode else ""
        except subprocess.TimeoutExpired as error:
            out, fault = (error.stdout or b"").decode(), f"not done in {LIMIT_S} s"
        yield from (json.loads(line) for line in out.splitlines() if line.startswith('{"scenario"'))
        if fault:
            yield {"scenario": "", "failed": fault}

    def _pypi(self) -> Iterator[list[str]]:
        tool = FOLDER / ".uv"
        os.environ.setdefault("UV_SYSTEM_CERTS", "1")
        if not (tool / "bin/uv").exists():
            yield [sys.executable, "-m", "venv", str(tool)]
            yield [str(tool / "bin/pip"), "install", "--quiet", "uv"]
        uv = str(tool / "bin/uv")
        yield [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(self.folder)]
        yield [uv, "pip", "install", "--quiet", "--python", str(self.folder / "bin/python"), *self.packages]

    def _npm(self) -> Iterator[list[str]]:
        (self.folder / "package.json").write_text("{}", encoding="utf-8")  # else a folder above is taken
        yield ["npm", "install", "--silent", "--no-audit", "--no-fund", *self.packages]


def read_clients() -> dict[str, Client]:
    """All clients by their names."""
    rows = tomllib.loads((HERE / "clients.toml").read_text(encoding="utf-8"))
    return {name: Client(name, **row | {"packages": tuple(row["packages"])}) for name, row in rows.items()}
