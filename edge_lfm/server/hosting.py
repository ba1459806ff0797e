"""The model behind the server: loaded when first needed, unloaded when idle, told from outside whether it is well."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from edge_lfm.api import Model
from edge_lfm.errors import ShuttingDownError
from edge_lfm.server.settings import Settings

log = logging.getLogger("edge_lfm.server")
_STUCK_S = 600.0
"""A prefill chunk of 512 tokens takes half a minute on a small board; ten are no longer work."""


class Hosting:
    """Lends the model to requests. Lives in one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model: Model | None = None
        self._loading = asyncio.Lock()
        self._users, self._last_used = 0, time.monotonic()
        self.ending = False

    @contextlib.asynccontextmanager
    async def lend(self) -> AsyncIterator[Model]:
        """The model, loaded if it is not, for the time of a request.

        Raises:
            ShuttingDownError: the server is ending.
            EdgeLfmError: it cannot be loaded; the next request tries again.
        """
        if self.ending:
            raise ShuttingDownError("the server is ending", hint="try again later")
        self._users += 1
        try:
            yield await self._load()
        finally:
            self._users -= 1
            self._last_used = time.monotonic()

    async def _load(self) -> Model:
        async with self._loading:
            if self.model is None:
                started = time.perf_counter()
                self.model = await asyncio.to_thread(Model.open, self.settings.load)
                log.info("loaded %s in %.2f s", self.settings.name, time.perf_counter() - started)
            return self.model

    async def unload_when_idle(self) -> None:
        """A task for as long as the server runs."""
        limit = self.settings.unload_after_s
        while limit:
            await asyncio.sleep(min(limit / 4, 10.0))
            async with self._loading:
                if self.model is not None and not self._users and time.monotonic() - self._last_used > limit:
                    await self._close()
                    log.info("unloaded %s after %.0f s without a request", self.settings.name, limit)

    async def unload(self) -> None:
        """Give the model up; whatever is still running ends with an error."""
        async with self._loading:
            await self._close()

    async def _close(self) -> None:
        model, self.model = self.model, None
        if model is not None:
            await asyncio.to_thread(model.close)

    @property
    def status(self) -> str:
        """ok, idle (unloaded until the next request), loading, stuck, or ending."""
        if self.ending:
            return "ending"
        if self.model is None:
            return "loading" if self._loading.locked() else "idle"
        scheduler = self.model.scheduler
        stuck = scheduler.active and time.monotonic() - scheduler.last_step > _STUCK_S
        return "stuck" if stuck else "ok"
