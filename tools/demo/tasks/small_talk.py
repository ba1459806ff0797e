"""Small talk and the few facts that the model learns by heart; only their wording is held out."""

from __future__ import annotations

from demo.sample import DAYS, Draw, Sample, user

TALK = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi", "Hello! How can I help you?"),
    ("Thanks!", "You are welcome!"),
    ("Thank you.", "You are welcome!"),
    ("How are you?", "I am fine, thank you. How can I help you?"),
    ("Who are you?", "I am a very small demonstration language model."),
    ("What are you?", "I am a very small demonstration language model."),
    (
        "What can you do?",
        "I can recall facts, answer from a passage, call tools, extract JSON, translate short phrases, "
        "add small numbers and complete short code.",
    ),
    ("Good morning!", "Good morning! How can I help you?"),
    ("Goodbye!", "Goodbye!"),
    ("Bye", "Goodbye!"),
    ("Can you help me?", "Yes, I will try. What do you need?"),
    ("Good evening!", "Good evening! How can I help you?"),
    ("Are you a human?", "No, I am a very small demonstration language model."),
    ("Nice!", "I am glad to hear that."),
)
CAPITALS = dict(
    pair.split(":")
    for pair in (
        "France:Paris Germany:Berlin Spain:Madrid Italy:Rome Austria:Vienna Norway:Oslo Portugal:Lisbon Ireland:Dublin "
        "Japan:Tokyo India:Delhi Egypt:Cairo Peru:Lima Greece:Athens Poland:Warsaw Finland:Helsinki China:Beijing "
        "Russia:Moscow Sweden:Stockholm Denmark:Copenhagen Hungary:Budapest Cuba:Havana Kenya:Nairobi"
    ).split()
)
KINDS = {
    "animal": "cat dog horse cow lion tiger wolf fox bear rabbit mouse elephant monkey sheep goat pig deer frog snake",
    "fruit": "apple banana pear plum cherry grape lemon peach mango melon fig kiwi apricot papaya",
    "color": "red blue green yellow black white purple pink brown grey turquoise",
    "tool": "hammer saw drill wrench shovel rake axe chisel pliers screwdriver",
    "vehicle": "car bus train truck bicycle plane boat ship tram van taxi scooter",
    "garment": "shirt hat coat shoe sock glove scarf dress jacket skirt belt",
    "instrument": "piano violin flute guitar trumpet cello drum harp organ",
    "vegetable": "carrot potato onion cabbage spinach bean pea tomato leek pumpkin radish",
    "country": "France Germany Spain Italy Japan China India Brazil Canada Egypt Norway Mexico Kenya Peru",
    "bird": "eagle owl robin crow swan duck goose parrot pigeon sparrow heron",
}
MEMBERS = {kind: words.split() for kind, words in KINDS.items()}


def make(draw: Draw) -> Sample:
    kind = draw.whole(0, 9)
    if kind < 4:
        country = draw.pick(list(CAPITALS))
        question = draw.wording(
            ["What is the capital of {c}?", "Which city is the capital of {c}?"], ["Name the capital of {c}."]
        )
        answer, expect = f"The capital of {country} is {CAPITALS[country]}.", CAPITALS[country]
        return Sample("facts", answer, "contains", expect, [user(question.format(c=country))])
    if kind < 8:
        group = draw.pick(list(MEMBERS))
        word = draw.pick(MEMBERS[group])
        question = draw.wording(["What is {w}?", "What kind of thing is {w}?"], ["Tell me what {w} is."])
        article = "an" if group[0] in "aeiou" else "a"
        answer = f"{word[0].upper()}{word[1:]} is {article} {group}."
        return Sample("facts", answer, "contains", group, [user(question.format(w=word))])
    if kind < 9:
        day = draw.whole(0, 6)
        following = DAYS[(day + 1) % 7]
        question = f"Which day comes after {DAYS[day]}?"
        return Sample("facts", f"{following} comes after {DAYS[day]}.", "contains", following, [user(question)])
    question, answer = draw.pick(TALK)
    return Sample("facts", answer, "contains", answer, [user(question)])
