"""What is done when a conversation is longer than the context: refuse it, or leave out its oldest turns.

The leading system message always stays. A turn is a user's message and all that follows it up to the next one. Never
silent: the number of messages left out is part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_lfm.api.messages import ids_within, system_messages
from edge_lfm.api.options import Messages
from edge_lfm.errors import ContextOverflowError


def drop_oldest(
    messages: Messages, encode: Callable[[Messages], list[int]], room: int
) -> tuple[Messages, list[int], int]:
    """The messages with as few of the oldest turns left out as `room` tokens ask for; their ids; how many are gone.

    Raises:
        ContextOverflowError: not even the last turn has room.
    """
    head = system_messages(messages)
    starts = [head, *(n for n, m in enumerate(messages) if n > head and m.get("role") == "user")]

    def without(turns: int) -> Messages:
        return [*messages[:head], *messages[starts[turns] :]]

    low, high = 0, len(starts) - 1  # the fewest turns whose leaving out fits lie in here, if any
    fitting: list[int] | None = None
    while low <= high:
        middle = (low + high) // 2
        ids = ids_within(lambda n=middle: encode(without(n)), room)  # type: ignore[misc]
        if ids is not None:
            fitting, high = ids, middle - 1
        else:
            low = middle + 1
    if low >= len(starts) or fitting is None:
        raise ContextOverflowError(
            f"the last turn alone has {len(encode(without(len(starts) - 1)))} tokens, there is room for {room}",
            hint="shorten it, or load the model with a larger context",
        )
    kept = without(low)
    return kept, fitting, len(messages) - len(kept)
