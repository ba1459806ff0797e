"""What a server is told when it starts. Plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_lfm.api import LoadOptions
from edge_lfm.errors import UsageError

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s@]+")


@dataclass(frozen=True)
class Defaults:
    """What a request is given that does not say it itself: a temperature, the most tokens, a system message.

    max_tokens_cap: the most tokens of any answer, whatever is asked for; one that reaches them ends by its length.
    """

    temperature: float | None = None
    max_tokens: int | None = None
    max_tokens_cap: int | None = None
    system: str | None = None

    def limit(self, asked: int | None) -> int | None:
        """The most tokens of an answer; None: until the context is full."""
        limits = [n for n in (asked if asked is not None else self.max_tokens, self.max_tokens_cap) if n is not None]
        return min(limits, default=None)


@dataclass(frozen=True)
class Settings:
    """How to serve one model.

    load: which model, and how to load it; also as a mapping of those options.
    name: under which clients ask for it; aliases: other names of it.
    strict_model: refuse requests for a model of any other name, which is otherwise the one that is here.
    defaults: what a request is given that does not say it.
    api_key: what clients must send as a bearer token; None: nothing.
    allowed_hosts: names that a Host header may have beside this machine's own and IP addresses.
    cors_origins: foreign origins whose pages may use the server, like "https://app.example"; "*": every one.
    queue: requests that may wait; more are told to come again.
    unload_after_s: seconds without a request after which the model is given up until the next; 0: never.
    body_bytes: the largest body of a request.
    grace_s: seconds that running answers get when the server is to end.
    stall_s: seconds that a client may leave its stream unread.
    """

    load: LoadOptions = field(default_factory=LoadOptions)
    name: str = "edge-lfm-demo"
    aliases: tuple[str, ...] = ()
    strict_model: bool = False
    defaults: Defaults = Defaults()
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    queue: int = 64
    unload_after_s: float = 0.0
    body_bytes: int = 8 << 20
    grace_s: float = 10.0
    stall_s: float = 60.0

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the model."""
        return self.name, *self.aliases

    def __post_init__(self) -> None:
        if isinstance(self.load, Mapping):
            object.__setattr__(self, "load", LoadOptions(**self.load))
        for origin in self.cors_origins:
            if origin not in ("*", "null") and not _ORIGIN.fullmatch(origin):
                raise UsageError(
                    f"{origin!r:.80} is no origin", hint='give a scheme and a name, like https://app.example, or "*"'
                )
