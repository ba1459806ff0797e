"""Values of the kinds that fields of records and parameters of tools have."""

from __future__ import annotations

from typing import Any

from demo.sample import COLORS, DAYS, Draw

_TEXTS = (
    "I am late|dinner is ready|call me back|see you at noon|the train is full|buy milk|happy birthday|"
    "the meeting is at three|water the plants|I found the key|the door is open|we won the game"
).split("|")


def draw_value(draw: Draw, kind: str) -> Any:
    """A text, a whole number, or a truth."""
    makers: dict[str, Any] = {
        "noun": draw.noun,
        "word": draw.word,
        "name": draw.name,
        "full name": draw.full_name,
        "place": draw.place,
        "color": lambda: draw.pick(COLORS),
        "day": lambda: draw.pick(DAYS),
        "time": lambda: f"{draw.whole(1, 12)}:{draw.pick(('00', '15', '30', '45'))}",
        "title": lambda: f"{draw.word().capitalize()} {draw.noun().capitalize()}",
        "message": lambda: f"{draw.pick(_TEXTS)} {draw.word()}" if draw.chance(0.4) else draw.pick(_TEXTS),
        "file": lambda: draw.noun() + draw.pick((".txt", ".py", ".csv", ".md")),
        "age": lambda: draw.whole(2, 90),
        "count": lambda: draw.number(2, 999) if draw.chance(0.5) else draw.whole(2, 60),
        "year": lambda: draw.number(1700, 2020),
        "yes or no": lambda: draw.chance(0.5),
    }
    return makers[kind]()
