"""Words repeated, reversed, picked and listed: what all reading from a prompt rests on."""

from __future__ import annotations

from demo.sample import Draw, Sample, user


def make(draw: Draw) -> Sample:
    words = [draw.word() if draw.chance(0.5) else draw.noun() for _ in range(draw.pick((1, 2, 3, 4, 5, 8)))]
    text, kind = " ".join(words), draw.random.random()
    if kind < 0.45 or len(words) == 1:
        wording = [
            "Repeat: {s}",
            "Say: {s}",
            "Repeat after me: {s}",
            "Copy this text: {s}",
            "Type this: {s}",
            "{s}\nAgain.",
        ]
        question, answer = draw.wording(wording, ["Write exactly this: {s}"]).format(s=text), text
    elif kind < 0.6:
        question, answer = f"Reverse the order: {text}", " ".join(words[::-1])
    elif kind < 0.8:
        place = draw.whole(0, min(2, len(words) - 1))
        name, word = (("first", "second", "third")[place], words[place]) if draw.chance(0.7) else ("last", words[-1])
        question, answer = f"What is the {name} word? {text}", word
    else:
        question, answer = "Make a list: " + ", ".join(words), "\n".join(f"- {word}" for word in words)
    return Sample("copy", answer, "exact", answer, [user(question)])
