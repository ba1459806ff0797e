"""A file of requests, answered by the server's own routes without a socket: OpenAI's batch format.

Knows lines and routes; does not know what a route makes of its body. What is wrong with a line is told in its place in
the output, and the others go on.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from starlette.applications import Starlette
from starlette.types import Message

from edge_lfm.errors import ModelFileError, UsageError
from edge_lfm.server.app import routes_of
from edge_lfm.server.batch_output import ID, BatchOutput
from edge_lfm.server.service import Service
from edge_lfm.server.settings import Settings

Json = dict[str, Any]
Answered = Callable[[bool, int], object]
"""Told of each line: whether it was answered, and the tokens of the answer."""


class _Entry(msgspec.Struct):
    """One line of the input."""

    custom_id: str
    url: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses"]
    body: dict[str, Any]
    method: Literal["POST"] = "POST"


@dataclass(frozen=True)
class Line:
    """What a line asks for, or what is wrong with it; number: from 1; where: its first byte in the file."""

    number: int
    where: int
    custom_id: str | None = None
    problem: str = ""


class Batch:
    """`source`: the requests.

    Raises:
        UsageError: it cannot be read.
    """

    def __init__(self, source: Path) -> None:
        self._source = source
        self.lines = list(self._read())

    def left(self, output: BatchOutput) -> list[Line]:
        """The lines that the output has no answer to.

        Raises:
            UsageError: it has answers to others.
        """
        known = {line.custom_id for line in self.lines if not line.problem}
        if foreign := next((i for i in output.answered if i not in known), None):
            raise UsageError(
                f"{output.path} has an answer to {foreign!r:.60}, which {self._source} does not ask for",
                hint="name another output, or the requests that it belongs to",
            )
        numbers = output.refused
        return [x for x in self.lines if (x.number not in numbers if x.problem else x.custom_id not in output.answered)]

    async def answer(self, settings: Settings, left: Sequence[Line], output: BatchOutput, on_answer: Answered) -> None:
        """Answer lines, as many at a time as the model does, and write each answer when it is there.

        Raises:
            OutputError: it cannot be written; what was written is whole.
            EdgeLfmError: the model cannot be loaded, or its files are gone.
        """
        service = Service(settings)
        app = Starlette(routes=routes_of(service))
        try:
            async with service.hosting.lend() as model:
                together = 2 * model.parallel  # those that wait have been prepared already
            async with aclosing(self._records(app, left, together)) as records:
                async for record in records:
                    if service.hosting.status == "gone":
                        raise ModelFileError("the model's files are gone or others", hint="run it again to go on")
                    output.write(record)
                    on_answer(_is_answer(record), _tokens_of(record))
        finally:
            await service.hosting.unload()

    async def _records(self, app: Starlette, left: Sequence[Line], together: int) -> AsyncGenerator[Json, None]:
        """The output's lines, as they come."""
        waiting, coming = iter(left), set[asyncio.Task[Json]]()
        try:
            while True:
                while len(coming) < together and (line := next(waiting, None)) is not None:
                    coming.add(asyncio.create_task(self._record(app, line)))
                if not coming:
                    return
                done, coming = await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in coming:
                task.cancel()
            await asyncio.gather(*coming, return_exceptions=True)

    async def _record(self, app: Starlette, line: Line) -> Json:
        head = {"id": f"{ID}{uuid.uuid4().hex}", "custom_id": line.custom_id, "line": line.number}
        if line.problem:
            error = {"code": "invalid_line", "message": f"line {line.number}: {line.problem}"}
            return head | {"response": None, "error": error}
        with self._source.open("rb") as file:
            file.seek(line.where)
            entry = msgspec.json.decode(file.readline(), type=_Entry)
        status, body = await post(app, entry.url, msgspec.json.encode(entry.body))
        response = {"status_code": status, "request_id": uuid.uuid4().hex, "body": msgspec.json.decode(body)}
        return head | {"response": response, "error": None}

    def _read(self) -> Iterator[Line]:
        """All lines but empty ones."""
        where, seen = 0, dict[str, int]()
        try:
            with self._source.open("rb") as file:
                for number, raw in enumerate(file, 1):
                    if raw.strip():
                        yield _check(raw, number, where, seen)
                    where += len(raw)
        except OSError as error:
            raise UsageError(f"{self._source}: {error.strerror}", hint="name a file of requests, one a line") from None


def _check(raw: bytes, number: int, where: int, seen: dict[str, int]) -> Line:
    """A line as it is in the file; `seen`: the ids of earlier ones."""
    try:
        entry = msgspec.json.decode(raw, type=_Entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Line(number, where, problem=str(error) or type(error).__name__)
    if entry.custom_id in seen:
        return Line(number, where, entry.custom_id, f"the custom_id stands in line {seen[entry.custom_id]} too")
    seen[entry.custom_id] = number
    if len(raw) > Settings.body_bytes:
        return Line(number, where, entry.custom_id, f"it is larger than {Settings.body_bytes} bytes")
    if entry.body.get("stream"):
        return Line(number, where, entry.custom_id, "an answer in a file is not streamed; leave stream out")
    return Line(number, where, entry.custom_id)


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


def _is_answer(record: Json) -> bool:
    return record["response"] is not None and record["response"]["status_code"] == 200


def _tokens_of(record: Json) -> int:
    """Tokens that were generated."""
    usage = (record["response"] or {"body": {}})["body"].get("usage") or {}
    return int(usage.get("completion_tokens", usage.get("output_tokens", 0)))
