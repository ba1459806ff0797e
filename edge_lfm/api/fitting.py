"""What is done when a conversation is longer than the context: refuse it, or leave out its oldest turns.

The leading system message always stays. A turn is a user's message and all that follows it up to the next one. Never
silent: the number of messages left out is part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_lfm.errors import ContextOverflowError, UsageError

OVERFLOWS = ("refuse", "drop_oldest")
Messages = Sequence[Mapping[str, Any]]


def check_overflow(name: str) -> str:
    """`name`, if it is a policy.

    Raises:
        UsageError: it is not.
    """
    if name not in OVERFLOWS:
        raise UsageError(f"unknown overflow policy '{name}'", hint=f"choose one of {', '.join(OVERFLOWS)}")
    return name


def drop_oldest(
    messages: Messages, encode: Callable[[Messages], list[int]], room: int
) -> tuple[list[Mapping[str, Any]], list[int], int]:
    """The messages with as few of the oldest turns left out as `room` tokens ask for; their ids; how many are gone.

    Raises:
        ContextOverflowError: not even the last turn has room.
    """
    kept = [list(messages), *_shortened(messages)]
    low, high = 0, len(kept) - 1  # the fewest drops that fit lie in here, if any
    found: list[int] | None = None
    while low <= high:
        middle = (low + high) // 2
        ids = encode(kept[middle])
        if len(ids) <= room:
            found, high = ids, middle - 1
        else:
            low = middle + 1
    if low >= len(kept) or found is None:
        raise ContextOverflowError(
            f"the last turn alone has {len(encode(kept[-1]))} tokens, there is room for {room}",
            hint="shorten it, or load the model with a larger context",
        )
    return kept[low], found, len(messages) - len(kept[low])


def _shortened(messages: Messages) -> list[list[Mapping[str, Any]]]:
    """The conversation without its first turn, its first two, and so on; the last turn is in all of them."""
    head = 1 if messages and messages[0].get("role") == "system" else 0
    starts = [n for n, m in enumerate(messages) if n > head and m.get("role") == "user"]
    return [[*messages[:head], *messages[n:]] for n in starts]
