"""How much a body holds: counted before it is read, for reading it is one call that no other thread can enter.

A text of 8 MB is read in 10 ms. As many bytes of `[],[],` are two million lists, and took 1.2 s, most of it for the
garbage collector. So objects, arrays and values are counted by the signs between them, outside of texts.
"""

from __future__ import annotations

from edge_lfm.server.failures import RequestError

MAX_VALUES = 300_000
"""More than the token ids of the longest prompt (`schemas.MAX_TOKEN_IDS`)."""
MAX_GROUPS = 150_000
"""Objects and arrays: those of a thousand tools with twenty parameters each are 65,000."""


def check_values(body: bytes) -> None:
    """Refuse a body of more values than any request needs.

    Raises:
        RequestError: it has more.
    """
    if body.count(b",") + body.count(b"{") + body.count(b"[") < MAX_GROUPS:
        return
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * MAX_VALUES:
        raise RequestError(f"the body has more than {MAX_VALUES} values", status=413)
    signs = b"".join(plain.split(b'"')[::2])
    groups = signs.count(b"{") + signs.count(b"[")
    values = signs.count(b",") + groups
    if values > MAX_VALUES or groups > MAX_GROUPS:
        raise RequestError(
            f"the body has {values} values in {groups} objects and arrays (at most {MAX_VALUES}, {MAX_GROUPS})",
            status=413,
        )
