"""Sums: small ones often, larger ones as often as they need; word problems and sequences."""

from __future__ import annotations

from demo.sample import Draw, Sample, user

_WORDINGS = {
    "+": ("What is {a} + {b}?", "{a} + {b} =", "Add {a} and {b}.", "What is {a} plus {b}?"),
    "-": ("What is {a} - {b}?", "{a} - {b} =", "What is {a} minus {b}?", "Subtract {b} from {a}."),
    "*": ("What is {a} * {b}?", "{a} * {b} =", "What is {a} times {b}?", "Multiply {a} by {b}."),
}
_LIMITS = (9, 20, 20, 50, 99, 99, 99)
_THINGS = "key lamp book ring coin map cup bell ball hat rope candle basket drum mirror clock kite".split()


def make(draw: Draw) -> Sample:
    kind = draw.random.random()
    if kind < 0.82:
        return _sum(draw)
    return _story(draw) if kind < 0.94 else _sequence(draw)


def _sum(draw: Draw) -> Sample:
    operator = draw.pick("+++++---**")

    def pair() -> tuple[int, int]:
        if operator == "*":
            return draw.whole(0, 10), draw.whole(0, 10)
        most = draw.pick(_LIMITS)
        a, b = draw.whole(0, most), draw.whole(0, most)
        return (max(a, b), min(a, b)) if operator == "-" else (a, b)

    a, b = draw.of_split(pair, lambda v: f"{operator}{v[0]},{v[1]}")
    result = {"+": a + b, "-": a - b, "*": a * b}[operator]
    unseen = [f"Compute {{a}} {operator} {{b}}.", f"Calculate {{a}} {operator} {{b}}."]
    question = draw.wording(_WORDINGS[operator], unseen).format(a=a, b=b)
    task = {"+": "sums", "-": "differences", "*": "products"}[operator]
    return Sample(task, str(result), "number", result, [user(question)])


def _story(draw: Draw) -> Sample:
    who, thing = draw.name(), draw.pick(_THINGS)
    a, b = draw.of_split(lambda: (draw.whole(1, 30), draw.whole(1, 20)), lambda v: f"w{v}")
    if draw.chance(0.5):
        text, result = f"{who} has {a} {thing}s and gets {b} more.", a + b
    else:
        text, result = f"{who} has {a + b} {thing}s and gives {b} away.", a
    question = f"{text} How many {thing}s does {who} have?"
    return Sample("word problems", f"{who} has {result} {thing}s.", "number", result, [user(question)])


def _sequence(draw: Draw) -> Sample:
    step = draw.pick((1, 1, 2, 2, 3, 5, 10))
    first = draw.of_split(lambda: draw.whole(0, 60), lambda v: f"s{step},{v}")
    numbers = [first + step * n for n in range(5)]
    question = draw.pick(("Continue: ", "What comes next? ", "")) + ", ".join(map(str, numbers[:4])) + ","
    return Sample("sequences", str(numbers[4]), "number", numbers[4], [user(question)])
