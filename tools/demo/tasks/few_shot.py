"""Labels that only the examples define: by category, by sentiment, by number; as lines, or as earlier turns."""

from __future__ import annotations

from demo.sample import Draw, Message, Sample, assistant, held, user
from demo.tasks.small_talk import MEMBERS

_GOOD = (
    "great lovely wonderful excellent delicious fantastic brilliant superb charming perfect pleasant amazing".split()
)
_BAD = "terrible awful horrible boring dreadful poor disgusting dull broken nasty disappointing ugly".split()
_THINGS = "film meal book hotel song game trip show phone chair room cake coffee concert lesson".split()
_SENTENCES = ("The {t} was {a}.", "A {a} {t}.", "I found the {t} {a}.", "What a {a} {t}!")


def make(draw: Draw) -> Sample:
    labels = _labels(draw)
    groups = list(labels)
    asked = draw.pick(groups)
    query = _item(draw, asked, query=True)
    order = draw.shuffled([groups[n % len(groups)] for n in range(draw.pick((4, 5, 6, 6, 8)))])
    examples: list[tuple[str, str]] = []
    for group in order:
        item = _item(draw, group)
        if item != query and item not in [shown for shown, _ in examples]:
            examples.append((item, labels[group]))
    answer = labels[asked]
    as_turns = draw.chance(0.25)
    messages = _turns(examples, query) if as_turns else [user(_lines(draw, examples, query))]
    return Sample("few-shot", answer, "exact", answer, messages)


def _labels(draw: Draw) -> dict[str, str]:
    """Group -> label."""
    kind = draw.random.random()
    if kind < 0.2:
        groups = draw.some(list(MEMBERS), draw.pick((2, 2, 3)))
        return {group: group for group in groups}
    if kind < 0.65:
        groups = draw.some(list(MEMBERS), 2)
        pairs = (["A", "B"], ["1", "2"], ["yes", "no"], ["left", "right"], ["X", "Y"])
        words = draw.pick((lambda: [draw.word(2), draw.word(2)], lambda: draw.nouns(2), lambda: draw.pick(pairs)))()
        return dict(zip(groups, draw.shuffled(words), strict=True))
    if kind < 0.87:
        words = draw.pick((["positive", "negative"], ["good", "bad"], ["happy", "sad"], draw.nouns(2)))
        return dict(zip(("+", "-"), words, strict=True))
    return {"even": "even", "odd": "odd"}


def _item(draw: Draw, group: str, query: bool = False) -> str:
    if group in ("+", "-"):
        words = _GOOD if group == "+" else _BAD

        def sentence() -> str:
            return draw.pick(_SENTENCES).format(t=draw.pick(_THINGS), a=draw.pick(words))

        return draw.of_split(sentence) if query else sentence()
    if group in ("even", "odd"):
        return str(2 * draw.whole(0, 49) + (group == "odd"))
    if query:  # held-out words are never asked for in training
        return draw.pick([w for w in MEMBERS[group] if held(f"query {w}") == draw.test] or MEMBERS[group])
    return draw.pick(MEMBERS[group])


def _lines(draw: Draw, examples: list[tuple[str, str]], query: str) -> str:
    between = draw.pick((" -> ", ": ", " = ", " => "))
    head = draw.wording(
        ("", "", "Complete the pattern.\n", "Continue:\n", "Complete the list.\n", "Go on:\n", "Label the last one.\n"),
        ("Finish the list.\n",),
    )
    lines = [f"{item}{between}{label}" for item, label in examples]
    return head + "\n".join([*lines, f"{query}{between}".rstrip(" ")])


def _turns(examples: list[tuple[str, str]], query: str) -> list[Message]:
    """As the API writes its `examples`."""
    turns = [turn for item, label in examples for turn in (user(item), assistant(label))]
    return [*turns, user(query)]
