"""Every kind of sample, and how often each is drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from demo.sample import Draw, Sample, assistant
from demo.tasks import (
    arithmetic,
    client_tools,
    code,
    copying,
    extract,
    few_shot,
    grounded,
    recall,
    small_talk,
    stories,
    tools,
    translate,
)

MAKERS: dict[str, tuple[Callable[[Draw], Sample], int]] = {  # and their shares
    "recall": (recall.make, 9),
    "grounded": (grounded.make, 16),
    "tool": (tools.make, 22),
    "json": (extract.make, 22),
    "few-shot": (few_shot.make, 9),
    "translate": (translate.make, 7),
    "sums": (arithmetic.make, 44),
    "copy": (copying.make, 10),
    "facts": (small_talk.make, 3),
    "code": (code.complete, 6),
    "fill-in-the-middle": (code.fill, 6),
    "story": (stories.make, 2),
    "client tool": (client_tools.make, 24),
}
_SINGLE_TURN = ("grounded", "json", "few-shot", "translate", "sums", "copy", "facts", "story", "recall")
SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful assistant trained by Liquid AI.",
    "Answer briefly.",
    "You are a small and friendly assistant.",
)
MAX_TOKENS = {"story": 150, "tool": 80, "client tool": 80, "json": 90, "code": 110, "fill-in-the-middle": 60}
"""Of an answer; 40 for the others."""


def samples(
    seed: str,
    split: str,
    count: int,
    joined: float = 0.0,
    only: Sequence[str] = (),
    most_joined: int = 3,
    any_words: bool = False,
) -> Iterator[Sample]:
    """Samples of a split; `joined`: the share of conversations that had up to `most_joined` other tasks before."""
    draw = Draw(seed, split, any_words)
    names = list(only or MAKERS)
    shares = [MAKERS[name][1] for name in names]
    for _ in range(count):
        sample = MAKERS[draw.random.choices(names, shares)[0]][0](draw)
        plain = sample.raw_prompt is None
        starts_with_system = plain and sample.messages[0]["role"] == "system"
        if plain and not starts_with_system and sample.tools is None and draw.chance(joined):
            before = []
            for _ in range(draw.pick((1, 1, 2, most_joined))):
                other = MAKERS[draw.pick(_SINGLE_TURN)][0](draw)
                if other.messages[0]["role"] != "system":
                    before += [*other.messages, assistant(other.answer)]
            sample.messages = before + sample.messages
        if plain and not starts_with_system and draw.chance(0.2):
            sample.messages = [{"role": "system", "content": draw.pick(SYSTEM)}, *sample.messages]
        yield sample
