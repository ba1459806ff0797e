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

    def last(turns: int) -> Messages:
        return [*messages[:head], *messages[starts[len(starts) - turns] :]]

    def within(turns: int) -> list[int] | None:
        return ids_within(lambda: encode(last(turns)), room)

    fitting, most, too_many = within(1), 1, len(starts) + 1
    if fitting is None:
        raise ContextOverflowError(
            f"the last turn alone has {len(encode(last(1)))} tokens, there is room for {room}",
            hint="shorten it, or load the model with a larger context",
        )
    while too_many - most > 1:  # twice as many while they fit: of a long conversation most is never looked at
        turns = min(2 * most, len(starts)) if too_many > len(starts) else (most + too_many) // 2
        ids = within(turns)
        if ids is not None:
            fitting, most = ids, turns
        else:
            too_many = turns
    kept = last(most)
    return kept, fitting, len(messages) - len(kept)
