"""The model behind the server: loaded when first needed, unloaded when idle, loaded again when its files have changed.

A model is mapped, not copied: when its file is cut, answers end in errors, whatever the process looks like. So its
files are looked at before each request and every few seconds, and what `/health` tells is what they are. Weights that
are no numbers are met in an answer only: it fails, and the model counts as broken until another answer is sound.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from edge_lfm.api import Model, trim_heap
from edge_lfm.errors import EdgeLfmError, ModelFileError, NumericalError, ShuttingDownError
from edge_lfm.server.settings import Settings

log = logging.getLogger("edge_lfm.server")
_STUCK_S = 600.0
"""A prefill chunk of 512 tokens takes half a minute on a small board; ten are no longer work."""
_LOOK_S = 2.0
_TRIM_S = 30.0
_SUFFIXES = (".safetensors", ".json", ".jinja", ".onnx", ".data")

Files = tuple[tuple[str, int, int, int], ...]


class Hosting:
    """Lends the model to requests. Lives in one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model: Model | None = None
        self._folder = Path(settings.load.path) if settings.load.path is not None else None
        self._files: Files = ()  # those that were loaded, or could not be
        self._failed = False
        self._broken = self._broken_told = False
        self._loading = asyncio.Lock()
        self._users, self._last_used = 0, time.monotonic()
        self.ending = False

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[Model]:
        """The model, loaded if it is not, for the time of a request.

        Raises:
            ShuttingDownError: the server is ending.
            NumericalError: the request's, which `/health` tells from then on.
            EdgeLfmError: it cannot be loaded; the next request tries again.
        """
        if self.ending:
            raise ShuttingDownError("the server is ending", hint="try again later")
        model = await self._load()
        self._users += 1
        try:
            yield model
        except NumericalError as error:
            if model is self.model:
                self._note_broken(error)
            raise
        finally:
            self._users -= 1
            self._last_used = time.monotonic()

    def note_sound(self) -> None:
        """An answer came to its end."""
        self._broken = False

    def _note_broken(self, error: NumericalError) -> None:
        self._broken = True
        if not self._broken_told:
            log.error("%s is broken: %s", self.settings.name, error)
        self._broken_told = True

    async def watch(self) -> None:
        """A task for as long as the server runs: unloads an idle model, loads one whose files have changed, and gives
        freed memory back."""
        limit, trimmed = self.settings.unload_after_s, time.monotonic()
        while True:
            await asyncio.sleep(min(limit / 4, _LOOK_S) if limit else _LOOK_S)
            if time.monotonic() - trimmed > _TRIM_S:
                await asyncio.to_thread(trim_heap)
                trimmed = time.monotonic()
            async with self._loading:
                if self._users or self.ending:
                    continue
                if self._stale:
                    with contextlib.suppress(EdgeLfmError):  # logged; /health tells it
                        await self._open()
                elif limit and self.model is not None and time.monotonic() - self._last_used > limit:
                    await self._close()
                    log.info("unloaded %s after %.0f s without a request", self.settings.name, limit)

    async def unload(self) -> None:
        """Give the model up; whatever is still running ends with an error."""
        async with self._loading:
            await self._close()

    async def _load(self) -> Model:
        async with self._loading:
            if self.model is not None and self._stale and self._users:
                raise ModelFileError(
                    "the model's files have changed", hint="it is loaded again when running answers have ended"
                )
            return self.model if self.model is not None and not self._stale else await self._open()

    async def start(self) -> None:
        """Load the model before the first request. Who starts the server tells what this raises, so it is not logged.

        Raises:
            EdgeLfmError: it cannot be loaded.
        """
        async with self._loading:
            await self._open(log_failure=False)
        self._last_used = time.monotonic()

    async def _open(self, log_failure: bool = True) -> Model:
        """Load the model, in place of an older one; with the lock held."""
        if self.model is not None:
            log.error("the files of %s are gone or others; it is loaded again", self.settings.name)
            await self._close()
        before, started, self._files = self._files, time.perf_counter(), self._look()
        try:
            self.model = await asyncio.to_thread(Model.open, self.settings.load)
        except EdgeLfmError as error:
            if log_failure and (not self._failed or self._files != before):
                log.error("cannot load %s: %s", self.settings.name, error)
            self._failed = True
            raise
        self._failed, self._folder = False, self.model.folder
        self._files = self._files or self._look()
        log.info("loaded %s in %.2f s", self.settings.name, time.perf_counter() - started)
        return self.model

    async def _close(self) -> None:
        model, self.model = self.model, None
        self._broken = self._broken_told = False
        if model is not None:
            await asyncio.to_thread(model.close)

    @property
    def _stale(self) -> bool:
        """Whether the files are others than those that were loaded, or failed to be."""
        return (self.model is not None or self._failed) and self._look() != self._files

    def _look(self) -> Files:
        """Name, inode, bytes and time of each of the model's files."""
        if self._folder is None:
            return ()
        try:
            with os.scandir(self._folder) as entries:
                files = [(e.name, e.stat()) for e in entries if e.name.endswith(_SUFFIXES)]
        except OSError:
            return ()
        return tuple(sorted((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in files))

    @property
    def status(self) -> str:
        """ok, idle (unloaded until the next request), loading, gone (the files are not those that were loaded, or no
        model), broken (the last answer met a NaN or an infinity), stuck, or ending."""
        if self.ending:
            return "ending"
        if self._loading.locked():
            return "loading"
        if self._failed or self._stale or (self._folder is not None and not self._look()):
            return "gone"
        if self.model is None:
            return "idle"
        if self._broken:
            return "broken"
        activity = self.model.activity
        stuck = activity.active and time.monotonic() - activity.last_step > _STUCK_S
        return "stuck" if stuck else "ok"
