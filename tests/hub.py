"""A hub for tests: a local server that speaks as much of Hugging Face's protocol as downloads need.

Repositories are folders. It can cut connections in the middle of a file, and says what was asked of it.
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """`repos`: name -> folder. `cuts`: how many answers with file content are still to be cut in half.

    `stall_after`: bytes of such an answer after which nothing more comes.
    """

    def __init__(self, repos: dict[str, Path], cuts: int = 0, stall_after: int | None = None) -> None:
        self.repos, self.cuts, self.stall_after = repos, cuts, stall_after
        self.damage = False
        """Whether files come with a wrong byte."""
        self.changed = self.whole = False
        """Whether files have become others; whether ranges are not honoured."""
        self.ranges: list[str] = []
        self.fetched: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        path = request.path.split("?")[0].strip("/")
        if path.startswith("api/models/"):
            repo, _, rest = path.removeprefix("api/models/").partition("/revision/")
            rest, _, tree = rest.partition("/")
            if not rest and "/tree/" in repo:
                repo, _, rest = repo.partition("/tree/")
                tree = "tree"
            self._tell(request, repo, rest or "main", bool(tree))
        elif "/resolve/" in path:
            path = path.removeprefix("cdn/")
            repo, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            self._send_file(request, repo, revision, name, body)
        else:
            self._refuse(request, 404, "EntryNotFound")

    def _tell(self, request: BaseHTTPRequestHandler, repo: str, revision: str, tree: bool) -> None:
        if repo not in self.repos:
            self._refuse(request, 404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._refuse(request, 404, "RevisionNotFound")
        else:
            files = [p for p in sorted(self.repos[repo].rglob("*")) if p.is_file()]
            names = [(p.relative_to(self.repos[repo]).as_posix(), p.stat().st_size) for p in files]
            content: object = {
                "id": repo,
                "modelId": repo,
                "sha": COMMIT,
                "private": False,
                "siblings": [{"rfilename": name, "size": size, "blobId": "0"} for name, size in names],
            }
            if tree:
                content = [{"type": "file", "path": name, "size": size, "oid": "0"} for name, size in names]
            self._reply(request, 200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send_file(self, request: BaseHTTPRequestHandler, repo: str, revision: str, name: str, body: bool) -> None:
        path = self.repos.get(repo, Path("/nowhere")) / name
        if not path.is_file():
            self._refuse(request, 404, "EntryNotFound" if repo in self.repos else "RepoNotFound")
            return
        content = path.read_bytes()
        tag = f'"{hashlib.sha256(content + b"changed" * self.changed).hexdigest()}"'
        if "/cdn/" not in request.path and name.endswith((".safetensors", ".gguf")):  # large files lie elsewhere
            linked = {"X-Linked-ETag": tag, "X-Linked-Size": str(len(content)), "X-Repo-Commit": COMMIT}
            self._reply(request, 302, b"", linked | {"Location": f"{self.endpoint}/cdn{request.path}"})
            return
        if self.damage:
            content = content[:-1] + bytes([content[-1] ^ 1])
        headers = {"ETag": tag, "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        byte_range, status = request.headers.get("Range"), 200
        if body and byte_range and not self.whole:
            first, _, last = byte_range.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else len(content)
            self.ranges.append(byte_range)
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            content, status = content[start:end], 206
        if body:
            self.fetched.append(name)
            if self.cuts and name.endswith((".safetensors", ".gguf")):
                self.cuts -= 1
                self._start(request, status, len(content), headers)
                request.wfile.write(content[: len(content) // 2])
                request.wfile.flush()
                request.close_connection = True
                request.connection.shutdown(socket.SHUT_RDWR)
                return
            if self.stall_after is not None and len(content) > self.stall_after:
                self._start(request, status, len(content), headers)
                request.wfile.write(content[: self.stall_after])
                request.wfile.flush()
                request.rfile.read(1)  # until the other side has left
                request.close_connection = True
                return
        self._reply(request, status, content, headers, body)

    def _refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self._reply(request, status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _reply(
        self, request: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str], body: bool = True
    ) -> None:
        self._start(request, status, len(content), headers)
        if body and request.command == "GET":
            request.wfile.write(content)

    def _start(self, request: BaseHTTPRequestHandler, status: int, length: int, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(length)}).items():
            request.send_header(name, value)
        request.end_headers()
