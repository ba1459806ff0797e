"""Tools of kinds that this server does not have: refused, or left out where the request says that they may be.

Agents send beside their functions tools that their maker's own service runs (`web_search`, `namespace`, ...), and
cannot be told not to. They may say `"unknown_tools": "omit"`, or, where they write bodies of their own only, send the
header `X-Unknown-Tools: omit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from edge_lfm.server.failures import RequestError

UnknownTools = Literal["omit", "refuse"]
HEADER = "x-unknown-tools"


class _Kind(msgspec.Struct):
    type: str | None = None


class _Asked(msgspec.Struct):
    unknown_tools: str | None = None
    tools: list[msgspec.Raw] | None = None


def header_says_omit(headers: Mapping[str, str]) -> bool:
    """Whether the header asks for it.

    Raises:
        RequestError: it asks for something else.
    """
    said = headers.get(HEADER, "refuse")
    if said not in ("omit", "refuse"):
        raise RequestError(f"{HEADER} is {said!r:.40}: give omit or refuse", HEADER)
    return said == "omit"


def known_tools_only(body: bytes, known: frozenset[str], omit: bool) -> bytes:
    """A body without the tools of other kinds than `known`, if it, or `omit`, says so. A body that is none of an
    object with tools is given back: what is wrong with it is found when it is decoded.

    Args:
        known: kinds; a tool without one is known.
    """
    if not (omit or b"unknown_tools" in body):
        return body
    try:
        asked = msgspec.json.decode(body, type=_Asked)
        kinds = [msgspec.json.decode(tool, type=_Kind).type for tool in asked.tools or []]
    except msgspec.ValidationError:
        return body
    kept = [tool for tool, kind in zip(asked.tools or [], kinds, strict=True) if kind is None or kind in known]
    if len(kept) == len(kinds) or not (omit or asked.unknown_tools == "omit"):
        return body
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    fields["tools"] = msgspec.Raw(msgspec.json.encode(kept))
    return msgspec.json.encode(fields)
