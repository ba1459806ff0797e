"""Facts that a conversation has told, asked for some turns later; the newest value of a fact counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from demo.sample import COLORS, MONTHS, Draw, Message, Sample, assistant, user
from demo.tasks import arithmetic, small_talk, translate

_FOODS = "pizza soup rice pasta bread cheese apples noodles pancakes salad tacos curry sushi waffles lentils".split()
_PETS = "cat dog rabbit parrot hamster turtle pony goldfish lizard goat".split()
_JOBS = "teacher baker doctor farmer painter nurse pilot driver singer writer lawyer gardener carpenter chemist".split()
_HOBBIES = "chess tennis painting reading swimming dancing fishing cooking running gardening sailing knitting".split()
_NOTED = ("Got it.", "Thanks, I will remember that.", "Okay, noted.", "Thank you for telling me.", "I will remember.")


@dataclass(frozen=True)
class _Fact:
    value: Callable[[Draw], str]
    statements: tuple[str, ...]
    asked: tuple[str, ...]
    answer: str
    unseen: tuple[str, ...] = ()  # questions


_FACTS = {
    "name": _Fact(
        Draw.name,
        ("My name is {v}.", "I am {v}.", "Call me {v}.", "Hi, I'm {v}.", "Hello! My name is {v}."),
        (
            "What is my name?",
            "What's my name?",
            "Do you remember my name?",
            "Who am I?",
            "Say my name again, please.",
            "Tell me who I am.",
        ),
        "Your name is {v}.",
        ("Can you tell me my name?", "Please say my name."),
    ),
    "city": _Fact(
        Draw.place,
        ("I live in {v}.", "My home is in {v}.", "I moved to {v}."),
        (
            "Where do I live?",
            "Which city do I live in?",
            "What city is my home?",
            "Tell me which city I live in.",
            "Where was my home again?",
        ),
        "You live in {v}.",
        ("Tell me where I live.",),
    ),
    "color": _Fact(
        lambda d: d.pick(COLORS),
        ("My favorite color is {v}.", "I like the color {v} best."),
        ("What is my favorite color?", "Which color do I like best?", "Tell me the color I like best."),
        "Your favorite color is {v}.",
        ("Which color is my favorite?",),
    ),
    "food": _Fact(
        lambda d: d.pick(_FOODS),
        ("My favorite food is {v}.", "I love to eat {v}."),
        ("What is my favorite food?", "What do I love to eat?", "Please tell me what I love to eat."),
        "Your favorite food is {v}.",
    ),
    "job": _Fact(
        lambda d: d.pick(_JOBS),
        ("I work as a {v}.", "I am a {v}.", "My job is {v}."),
        ("What is my job?", "What do I work as?", "Tell me what my job is."),
        "You work as a {v}.",
    ),
    "hobby": _Fact(
        lambda d: d.pick(_HOBBIES),
        ("My hobby is {v}.", "In my free time I enjoy {v}."),
        ("What is my hobby?", "What do I enjoy in my free time?", "Can you tell me my hobby?"),
        "Your hobby is {v}.",
    ),
    "code": _Fact(
        lambda d: str(d.number(100, 9999)),
        ("My locker code is {v}.", "The door code is {v}.", "Remember the code {v}."),
        ("What is the code?", "Which code did I tell you?", "Tell me the code.", "Please say the code."),
        "The code is {v}.",
        ("What was the code again?",),
    ),
    "friend": _Fact(
        Draw.name,
        ("My best friend is {v}.", "My best friend is called {v}."),
        (
            "Who is my best friend?",
            "What is my best friend called?",
            "Tell me who my best friend is.",
            "Who was my best friend again?",
        ),
        "Your best friend is {v}.",
    ),
    "birthday": _Fact(
        lambda d: d.pick(MONTHS),
        ("My birthday is in {v}.",),
        ("When is my birthday?", "In which month is my birthday?", "When was my birthday again?"),
        "Your birthday is in {v}.",
    ),
    "word": _Fact(
        Draw.word,
        ("The secret word is {v}.", "Remember this word: {v}.", "The password is {v}."),
        (
            "What is the secret word?",
            "Which word did I tell you?",
            "What is the password?",
            "Tell me the word.",
            "What was the secret word?",
        ),
        "The word is {v}.",
        ("What was the word?",),
    ),
}


def _free_fact(draw: Draw) -> tuple[_Fact, str]:
    """A thing of the user's that no list knows: "My umbrella is green"."""
    thing = draw.noun()
    value = draw.pick((lambda: draw.pick(COLORS), draw.noun, draw.word, lambda: str(draw.number(2, 999))))()
    fact = _Fact(
        lambda _: value,
        (f"My {thing} is {{v}}.", f"Please note: my {thing} is {{v}}."),
        (
            f"What is my {thing}?",
            f"Do you remember my {thing}?",
            f"What was my {thing} again?",
            f"Please tell me: what is my {thing}?",
        ),
        f"Your {thing} is {{v}}.",
        (f"Tell me what my {thing} is.",),
    )
    return fact, value


def _pet(draw: Draw) -> tuple[_Fact, str]:
    kind, value = draw.pick(_PETS), draw.name()
    fact = _Fact(
        lambda _: value,
        (f"I have a {kind} called {{v}}.", f"My {kind} is named {{v}}."),
        (f"What is my {kind} called?", f"What is the name of my {kind}?", f"Tell me what my {kind} is called."),
        f"Your {kind} is called {{v}}.",
    )
    return fact, value


def make(draw: Draw) -> Sample:
    names = draw.some([n for n in _FACTS if n not in draw.pick((("word",), ("code",)))], draw.pick((1, 2, 2, 3, 3, 4)))
    facts = [(_FACTS[name], _FACTS[name].value(draw)) for name in names]
    facts += [draw.pick((_free_fact, _pet))(draw) for _ in range(draw.pick((0, 1, 1, 2)))]
    facts = draw.shuffled(facts)
    messages: list[Message] = []
    pending: list[str] = []
    for n, (fact, value) in enumerate(facts):
        pending.append(draw.pick(fact.statements).format(v=value))
        if draw.chance(0.6) or n == len(facts) - 1:
            messages += [user(" ".join(pending)), assistant(_acknowledgement(draw, fact, value))]
            pending = []
    changeable = [n for n, (fact, _) in enumerate(facts) if fact in _FACTS.values()]
    if changeable and draw.chance(0.15):
        n = draw.pick(changeable)
        fact = facts[n][0]
        facts[n] = fact, fact.value(draw)
        start = draw.pick(("Correction: ", "I was wrong. ", "That changed. "))
        messages += [user(start + fact.statements[0].format(v=facts[n][1])), assistant(draw.pick(_NOTED))]
    for _ in range(draw.pick((0, 0, 1, 1, 2, 3))):
        messages += _aside(draw)
    asked = draw.some(facts, min(len(facts), draw.pick((1, 1, 2))))
    for n, (fact, value) in enumerate(asked):
        messages.append(user(draw.wording(fact.asked, fact.unseen)))
        answer = fact.answer.format(v=value)
        if n < len(asked) - 1:
            messages.append(assistant(answer))
    return Sample("recall", answer, "contains", value, messages)


def _acknowledgement(draw: Draw, fact: _Fact, value: str) -> str:
    if fact is _FACTS["name"] and draw.chance(0.7):
        return f"Nice to meet you, {value}!"
    return draw.pick(_NOTED)


def _aside(draw: Draw) -> list[Message]:
    """A turn about something else."""
    if draw.chance(0.5):
        question, answer = draw.pick(small_talk.TALK)
        return [user(question), assistant(answer)]
    other = draw.pick((arithmetic.make, translate.make, small_talk.make))(draw)
    return [*other.messages, assistant(other.answer)]
