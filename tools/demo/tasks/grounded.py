"""Answers from a passage: known kinds of things, things with any attributes, several people, several documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from demo.sample import COLORS, DAYS, MONTHS, Draw, Sample, user
from edge_lfm.text.documents import Document, write_documents

NOT_SAID = "The passage does not say."
_ABSENT = (
    "What is the phone number?",
    "How much does a ticket cost?",
    "Who is the mayor?",
    "What time does it close?",
    "What is the name of the dog?",
    "How old is the owner?",
    "What is the address?",
)
_WRAPPED = (
    "Passage: {p}\n\nQuestion: {q}",
    "Read the passage and answer.\n\n{p}\n\n{q}",
    "{p}\n\nQuestion: {q}",
    "Context: {p}\nQuestion: {q}",
    "Answer from this passage only.\nPassage: {p}\nQuestion: {q}",
)
_WRAPPED_UNSEEN = ("Here is a passage:\n{p}\n\nNow answer: {q}", "Text: {p}\n\nQuestion: {q}")


@dataclass(frozen=True)
class _Fact:
    value: Callable[[Draw], str]
    sentence: str
    question: str
    answer: str


_KINDS: dict[str, tuple[str, tuple[_Fact, ...]]] = {
    "lighthouse": (
        "The {e} lighthouse",
        (
            _Fact(
                lambda d: str(d.number(1650, 2020)),
                "It was built in {v}.",
                "When was the lighthouse built?",
                "It was built in {v}.",
            ),
            _Fact(Draw.full_name, "It was designed by {v}.", "Who designed the lighthouse?", "It was designed by {v}."),
            _Fact(
                lambda d: str(d.number(12, 99)),
                "It is {v} meters tall.",
                "How tall is the lighthouse?",
                "It is {v} meters tall.",
            ),
            _Fact(Draw.place, "It stands near {v}.", "Where does it stand?", "It stands near {v}."),
            _Fact(lambda d: d.pick(COLORS), "Its door is painted {v}.", "What color is the door?", "The door is {v}."),
        ),
    ),
    "company": (
        "The company {e}",
        (
            _Fact(
                lambda d: str(d.number(1850, 2024)),
                "It was founded in {v}.",
                "When was the company founded?",
                "It was founded in {v}.",
            ),
            _Fact(Draw.full_name, "Its founder is {v}.", "Who founded the company?", "It was founded by {v}."),
            _Fact(lambda d: d.noun() + "s", "It makes {v}.", "What does the company make?", "It makes {v}."),
            _Fact(Draw.place, "Its main office is in {v}.", "Where is the main office?", "The main office is in {v}."),
            _Fact(
                lambda d: str(d.number(20, 990)),
                "It has {v} workers.",
                "How many workers does it have?",
                "It has {v} workers.",
            ),
        ),
    ),
    "festival": (
        "The {e} festival",
        (
            _Fact(lambda d: d.pick(MONTHS), "It is held every {v}.", "When is the festival?", "It is held in {v}."),
            _Fact(Draw.place, "It is held in the town of {v}.", "Where is the festival held?", "It is held in {v}."),
            _Fact(
                lambda d: str(d.number(100, 9900)),
                "About {v} people come.",
                "How many people come?",
                "About {v} people come.",
            ),
        ),
    ),
    "robot": (
        "The robot {e}",
        (
            _Fact(
                lambda d: str(d.number(2, 400)),
                "It weighs {v} kilograms.",
                "How much does it weigh?",
                "It weighs {v} kilograms.",
            ),
            _Fact(Draw.name, "It was made by {v}.", "Who made the robot?", "It was made by {v}."),
            _Fact(lambda d: d.pick(COLORS), "It is painted {v}.", "What color is the robot?", "It is {v}."),
        ),
    ),
}
_UNSEEN_KINDS: dict[str, tuple[str, tuple[_Fact, ...]]] = {
    "museum": (
        "The {e} museum",
        (
            _Fact(
                lambda d: str(d.number(1750, 2020)),
                "It opened in {v}.",
                "When did the museum open?",
                "It opened in {v}.",
            ),
            _Fact(Draw.place, "It is in the city of {v}.", "Where is the museum?", "It is in {v}."),
            _Fact(
                lambda d: str(d.number(3, 90)), "It has {v} rooms.", "How many rooms does it have?", "It has {v} rooms."
            ),
            _Fact(Draw.full_name, "The director is {v}.", "Who is the director?", "The director is {v}."),
        ),
    ),
    "river": (
        "The {e} river",
        (
            _Fact(
                lambda d: str(d.number(20, 950)),
                "It is {v} kilometers long.",
                "How long is the river?",
                "It is {v} kilometers long.",
            ),
            _Fact(
                Draw.place,
                "It flows through the city of {v}.",
                "Which city does it flow through?",
                "It flows through {v}.",
            ),
            _Fact(Draw.noun, "People find {v} there.", "What do people find there?", "People find {v} there."),
        ),
    ),
}
_PEOPLE: tuple[tuple[Callable[[Draw], str], str, str, str], ...] = (
    (Draw.noun, "{n} likes {v}.", "What does {n} like?", "Who likes {v}?"),
    (Draw.noun, "{n} has a {v}.", "What does {n} have?", "Who has a {v}?"),
    (Draw.place, "{n} lives in {v}.", "Where does {n} live?", "Who lives in {v}?"),
    (lambda d: d.pick(DAYS), "{n} comes on {v}.", "When does {n} come?", "Who comes on {v}?"),
    (lambda d: d.pick(COLORS), "{n} wears {v}.", "What does {n} wear?", "Who wears {v}?"),
)


def make(draw: Draw) -> Sample:
    kind = draw.random.random()
    if kind < 0.2:
        return _documents(draw)
    text, question, answer, expect, unseen = _people(draw) if kind < 0.45 else _thing(draw)
    wrapped = draw.wording(_WRAPPED, _WRAPPED_UNSEEN).format(p=text, q=question)
    return Sample("grounded", answer, "contains", expect, [user(wrapped)], unseen=unseen)


def _people(draw: Draw) -> tuple[str, str, str, str, bool]:
    value, sentence, asked, reverse = draw.pick(_PEOPLE)
    names = draw.distinct(draw.name, draw.pick((2, 3, 3, 4, 5)))
    values = draw.distinct(lambda: value(draw), len(names))
    text = " ".join(sentence.format(n=n, v=v) for n, v in zip(names, values, strict=True))
    which = draw.whole(0, len(names) - 1)
    name, asked_value = names[which], values[which]
    answer = sentence.format(n=name, v=asked_value)
    if draw.chance(0.3):
        return text, reverse.format(v=asked_value), answer, name, False
    return text, asked.format(n=name), answer, asked_value, False


def _thing(draw: Draw) -> tuple[str, str, str, str, bool]:
    """Passage, question, answer, what it must contain, and whether the kind is unseen."""
    free = draw.chance(0.5)
    unseen = draw.test and draw.chance(0.5) and not free
    subject, facts = _free_facts(draw) if free else draw.pick(list((_UNSEEN_KINDS if unseen else _KINDS).values()))
    name = subject.format(e=draw.word().capitalize())
    stated = draw.some(facts, min(len(facts), draw.pick((2, 3, 3, 4))))
    values = [fact.value(draw) for fact in stated]
    sentences = [fact.sentence.format(v=v) for fact, v in zip(stated, values, strict=True)]
    opening = draw.pick(
        (f"{name} is well known.", f"Everybody knows {name[0].lower()}{name[1:]}.", f"This is about {name}.")
    )
    text = " ".join([opening, *sentences])
    if draw.chance(0.12):
        return text, draw.pick(_ABSENT), NOT_SAID, "does not say", unseen or (free and draw.test)
    which = draw.whole(0, len(stated) - 1)
    fact, value = stated[which], values[which]
    return text, fact.question, fact.answer.format(v=value), value, unseen or (free and draw.test)


def _free_facts(draw: Draw) -> tuple[str, tuple[_Fact, ...]]:
    """A thing with attributes that are any nouns."""
    makers = (Draw.noun, Draw.word, Draw.place, Draw.name, lambda d: str(d.number(2, 999)), lambda d: d.pick(COLORS))
    facts = [
        _Fact(draw.pick(makers), f"Its {noun} is {{v}}.", f"What is its {noun}?", f"Its {noun} is {{v}}.")
        for noun in draw.nouns(4)
    ]
    return f"The {draw.noun()} {{e}}", tuple(facts)


def _documents(draw: Draw) -> Sample:
    """Documents with ids in the system turn, as the API writes them; half of the answers cite."""
    count, cite = draw.pick((1, 2, 2, 3)), draw.chance(0.5)
    ids = draw.pick(([str(n + 1) for n in range(count)], draw.nouns(count)))
    parts = [_thing(draw) for _ in range(count)]
    titled = draw.chance(0.4)
    documents = [
        Document(name, text, draw.noun().capitalize() if titled else "")
        for name, (text, *_) in zip(ids, parts, strict=True)
    ]
    which = draw.whole(0, count - 1)
    _, question, answer, expect, unseen = parts[which]
    if count > 1 and expect != "does not say":  # which one is meant must be said
        subject = documents[which].text.partition(" is well known.")[0]
        if subject == documents[which].text:
            question = f"{question} (document {ids[which]})"
        else:
            question = f"{subject}: {question}"
    if cite and expect != "does not say":
        answer, expect = f"{answer} [{ids[which]}]", f"{expect}"
    system = {"role": "system", "content": write_documents(documents, cite)}
    checks = [expect, f"[{ids[which]}]"] if answer.endswith("]") else [expect]
    return Sample("documents", answer, "contains_all", checks, [system, user(question)], unseen=unseen)
