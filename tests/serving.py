"""A server in a process of its own, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys


class serving:  # noqa: N801 (used as a context manager)
    """`edge-lfm serve` on a free port; gives its address."""

    def __init__(self, model: str, *arguments: str, **environment: str) -> None:
        command = [sys.executable, "-P", "-m", "edge_lfm.cli.main", "serve", model, "--port", "0", "--json"]
        self.process = subprocess.Popen(
            [*command, "--threads", "1", "--log-level", "warning", *arguments],  # nobody reads the pipe meanwhile
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )

    def __enter__(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate()[1])
        self.address: str = json.loads(line)["address"]
        return self.address

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.errors = self.process.communicate(timeout=30)[1]
        assert self.process.returncode == 0, self.errors
        assert "Traceback" not in self.errors, self.errors
