"""Real clients against a server of the demo model: python benchmarks/clients/run.py [CLIENT ... | --core] [--json]

Each client is installed in an environment of its own under build/clients, and does the scenarios that it has. What
cannot be installed, or fails, is told by its name below the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from checks import NO_CALL, SCENARIOS, YES, verdict
from environments import FOLDER, Client, read_clients

from edge_lfm.demo import demo_checkpoint

CONTEXT = 65_536
"""Positions that the demo model is said to have: agents' prompts are longer than its own 2,048."""


def served_model() -> Path:
    """The demo model, packed, with a longer context."""
    packed, source = FOLDER / ".model", FOLDER / ".checkpoint"
    if not (packed / "config.json").exists():
        shutil.copytree(demo_checkpoint(), source, dirs_exist_ok=True)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        (source / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}), encoding="utf-8")
        command = [sys.executable, "-m", "edge_lfm", "quantize", str(source), "-o", str(packed), "--force"]
        subprocess.run(command, check=True, capture_output=True)
    return packed


class Served:
    """A server while the block lasts; `address` is where. A bound text without an end stops at 400 tokens."""

    def __enter__(self) -> Served:
        options = ("--name", "demo", "--max-tokens", "400", "--parallel", "4", "--threads", "1", "--port", "0")
        command = [sys.executable, "-m", "edge_lfm", "serve", str(served_model()), *options, "--json"]
        quiet = ("--log-level", "warning")
        self.process = subprocess.Popen([*command, *quiet], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.address: str = json.loads(self.process.stdout.readline())["address"]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate()

    def figure(self, name: str) -> float:
        """One of the server's metrics; 0 if it has none of that name."""
        with urllib.request.urlopen(f"{self.address}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name} ")), 0.0)

    @property
    def cancelled(self) -> float:
        """Answers whose clients have left."""
        return self.figure('edge_lfm_requests_total{outcome="cancelled"}')


def ask(client: Client, server: Served) -> dict[str, str]:
    """Verdicts by scenario. A cancel holds if the server has noticed, and nothing runs on."""
    before = server.cancelled
    found = {told["scenario"]: verdict(told["scenario"], told) for told in client.ask(server.address)}
    if found.get("cancel") == YES:
        until = time.monotonic() + 5
        while time.monotonic() < until and server.cancelled == before:
            time.sleep(0.1)
        if server.cancelled == before or server.figure("edge_lfm_active_requests"):
            found["cancel"] = "the answer was made to its end"
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown, and below it what is wrong."""
    lines = [f"| client | version | {' | '.join(name.replace('_', ' ') for name in SCENARIOS)} |"]
    lines.append("|---" * (len(SCENARIOS) + 2) + "|")
    notes = []
    for row in rows:
        cells = []
        for name in SCENARIOS:
            said = row["scenarios"].get(name, "")
            cells.append(said if said in ("", YES, NO_CALL) else "no")
        lines.append(f"| {row['client']} | {row['version']} | {' | '.join(cells)} |")
        for name, said in row["scenarios"].items():
            if said not in (YES, NO_CALL):
                notes.append(f"* {row['client']}{f', {name}' if name else ''}: {' '.join(said.split())}")
    return "\n".join([*lines, "", *notes])


def main() -> int:
    clients = read_clients()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"{', '.join(clients)}; all without")
    parser.add_argument("--core", action="store_true", help="those that CI tests")
    parser.add_argument("--json", action="store_true", help="a JSON list instead of a table")
    parser.add_argument("--install", action="store_true", help="only install")
    options = parser.parse_args()
    if unknown := set(options.clients) - set(clients):
        parser.error(f"no client {', '.join(sorted(unknown))}")
    core = [name for name, client in clients.items() if client.core and options.core]
    chosen = [clients[name] for name in options.clients or core or clients]
    faults = {client.name: client.install() for client in chosen}
    rows: list[dict[str, Any]] = []
    if not options.install:
        with Served() as server:
            for client in chosen:
                fault = faults[client.name]
                found = {"": f"not installed: {fault}"} if fault else ask(client, server)
                rows.append({"client": client.name, "version": client.version, "scenarios": found})
                print(client.name, found, file=sys.stderr)
        print(json.dumps(rows, indent=1) if options.json else table(rows))
    for name, fault in faults.items():
        if fault:
            print(f"{name} was not installed: {fault}", file=sys.stderr)
    wrong = any(said not in (YES, NO_CALL) for row in rows for said in row["scenarios"].values())
    return int(wrong or any(faults.values()))


if __name__ == "__main__":
    sys.exit(main())
