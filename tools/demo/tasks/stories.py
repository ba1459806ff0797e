"""Short stories with given names, and their continuations."""

from __future__ import annotations

from demo.sample import Draw, Sample, user

_PARTS = (
    (
        "Once there was a little {an} called {n}.",
        "{n} was a {adj} {an}.",
        "In a small village lived a {adj} {an} named {n}.",
    ),
    ("{n} lived near a {pl}.", "{n} liked to play by the {pl}.", "Every day, {n} walked to the {pl}."),
    ("One day, {n} found a {ob}.", "One morning, {n} saw a shiny {ob} on the ground.", "One day, {n} lost a {ob}."),
    ("{n} was very {fe}.", "This made {n} {fe}.", '"Oh no!" said {n}.', '"What is this?" said {n}.'),
    (
        "Then a {an2} named {n2} came by.",
        "Just then, a {adj2} {an2} called {n2} came along.",
        "{n} met a {an2} named {n2}.",
    ),
    ('"Can you help me?" asked {n}.', '"Do not worry," said {n2}.', '"I will help you," said {n2}.'),
    ("They looked for it together.", "{n} and {n2} walked through the {pl}.", "{n2} had a good idea."),
    ("At the end of the day, {n} and {n2} were best friends.", "{n} was happy and went home."),
    ("The end.", "{n} learned that it is good to share.", "And they lived happily ever after."),
)
_ANIMALS = (
    "fox bear rabbit mouse cat dog bird frog turtle pony duck owl girl boy dragon robot hedgehog squirrel".split()
)
_KINDS = "little brave happy clever kind funny shy lazy curious small".split()
_PLACES = "river forest garden lake hill meadow beach mountain pond park".split()
_FEELINGS = "happy sad scared excited surprised proud tired curious".split()


def make(draw: Draw) -> Sample:
    name, other = draw.distinct(draw.name, 2)
    cast = {
        "n": name,
        "n2": other,
        "an": draw.pick(_ANIMALS),
        "an2": draw.pick(_ANIMALS),
        "adj": draw.pick(_KINDS),
        "adj2": draw.pick(_KINDS),
        "pl": draw.pick(_PLACES),
        "fe": draw.pick(_FEELINGS),
        "ob": draw.noun(),
    }
    sentences = [draw.pick(part).format(**cast) for part in _PARTS]
    if draw.chance(0.55):
        question = draw.wording(
            ["Tell me a short story about a {an} named {n}.", "Write a short story about a {an} called {n}."],
            ["I want a short story about a {an} named {n}."],
        ).format(**cast)
        opening = "Once upon a time, there was a {adj} {an} named {n}.".format(**cast)
        answer, expect = " ".join([opening, *sentences[1:]]), [name, cast["an"]]
    else:
        shown = draw.whole(1, 4)
        question = draw.wording(["Continue this story: ", "Continue the story.\n\n"], ["Please continue: "])
        question += " ".join(sentences[:shown])
        answer, expect = " ".join(sentences[shown:]), [name]
    return Sample("story", answer, "story", expect, [user(question)])
