"""Lines of a batch, answered by the server's own routes without a socket: OpenAI's batch format.

Knows lines and routes; does not know what a route makes of its body, nor where answers go.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Self

import msgspec
from starlette.applications import Starlette
from starlette.types import Message

from edge_lfm.errors import ModelFileError
from edge_lfm.server.app import routes_of
from edge_lfm.server.batch_lines import Entry, Line, Requests
from edge_lfm.server.service import Service
from edge_lfm.server.settings import Settings

Json = dict[str, Any]


class Answerer:
    """A model that answers lines. A context: it is loaded there, and given up behind it."""

    def __init__(self, settings: Settings) -> None:
        self._service = Service(settings)
        self._app = Starlette(routes=routes_of(self._service))
        self.parallel = 1
        """Answers that are made at a time."""

    async def __aenter__(self) -> Self:
        """Load the model.

        Raises:
            EdgeLfmError: it cannot be loaded.
        """
        async with self._service.hosting.lend() as model:
            self.parallel = model.parallel
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._service.hosting.unload()

    async def answer(self, raw: bytes) -> Json:
        """What the record of a line says: its response and error.

        Raises:
            ModelFileError: the model's files are gone.
        """
        entry = msgspec.json.decode(raw, type=Entry)
        status, body = await post(self._app, entry.url, msgspec.json.encode(entry.body))
        if self._service.hosting.status == "gone":
            raise ModelFileError("the model's files are gone or others", hint="run it again to go on")
        response = {"status_code": status, "request_id": uuid.uuid4().hex, "body": msgspec.json.decode(body)}
        return {"response": response, "error": None}


async def answer_here(
    settings: Settings, requests: Requests, lines: Sequence[Line], take: Callable[[Json], object]
) -> None:
    """Answer lines on this machine, as many at a time as the model does; `take` gets each record when it is there.

    Raises:
        EdgeLfmError: the model cannot be loaded, or its files are gone, or what `take` raises.
    """
    async with Answerer(settings) as answerer:
        together = 2 * answerer.parallel  # those that wait have been prepared already
        waiting, coming = zip(lines, requests.texts(lines), strict=True), set[asyncio.Task[Json]]()

        async def record(line: Line, raw: bytes) -> Json:
            return line.head | await answerer.answer(raw)

        try:
            while True:
                while len(coming) < together and (one := next(waiting, None)) is not None:
                    coming.add(asyncio.create_task(record(*one)))
                if not coming:
                    return
                done, coming = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    take(task.result())
        finally:
            for task in coming:
                task.cancel()
            await asyncio.gather(*coming, return_exceptions=True)


async def post(app: Starlette, url: str, body: bytes) -> tuple[int, bytes]:
    """What an application answers to a body: status and body."""
    parts, status, asked = list[bytes](), 500, False

    async def receive() -> Message:
        nonlocal asked
        if asked:
            await asyncio.Event().wait()  # the one who asked does not leave
        asked = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": url, "raw_path": url,
             "root_path": "", "query_string": b"", "headers": headers, "server": None, "client": None}  # fmt: skip
    await app(scope, receive, send)
    return status, b"".join(parts)
