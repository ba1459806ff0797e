"""Small Python functions: completed from their signature, written on request, and with a part in the middle missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from demo.sample import Draw, Sample, user


@dataclass(frozen=True)
class _Family:
    """Functions that do the same; names, documentation, parameters, body, arguments to test with, and a request."""

    names: str
    documentation: str
    parameters: str
    body: str
    tests: list[tuple[Any, ...]]
    request: str


_FAMILIES = (
    _Family(
        "add add_numbers sum_two plus",
        "Return the sum of {0} and {1}.",
        "a,b x,y m,n first,second",
        "return {0} + {1}",
        [(1, 2), (5, 7)],
        "adds two numbers",
    ),
    _Family(
        "subtract difference minus",
        "Return {0} minus {1}.",
        "a,b x,y m,n",
        "return {0} - {1}",
        [(9, 2), (5, 7)],
        "subtracts two numbers",
    ),
    _Family(
        "multiply product times",
        "Return the product of {0} and {1}.",
        "a,b x,y m,n",
        "return {0} * {1}",
        [(3, 2), (5, 7)],
        "multiplies two numbers",
    ),
    _Family(
        "square squared",
        "Return the square of {0}.",
        "x n a value",
        "return {0} * {0}",
        [(3,), (5,)],
        "squares a number",
    ),
    _Family("double twice", "Return {0} times two.", "x n a value", "return {0} * 2", [(3,), (5,)], "doubles a number"),
    _Family(
        "is_even even",
        "Return True if {0} is even.",
        "x n number value",
        "return {0} % 2 == 0",
        [(3,), (4,)],
        "checks if a number is even",
    ),
    _Family(
        "is_odd odd",
        "Return True if {0} is odd.",
        "x n number value",
        "return {0} % 2 == 1",
        [(3,), (4,)],
        "checks if a number is odd",
    ),
    _Family(
        "is_positive positive",
        "Return True if {0} is greater than zero.",
        "x n number value",
        "return {0} > 0",
        [(3,), (-4,)],
        "checks if a number is positive",
    ),
    _Family(
        "reverse reverse_text reversed_copy",
        "Return {0} in reverse order.",
        "s text items word",
        "return {0}[::-1]",
        [("abc",), ([1, 2],)],
        "reverses a string",
    ),
    _Family(
        "upper to_upper shout",
        "Return {0} in upper case.",
        "s text word",
        "return {0}.upper()",
        [("abc",), ("x",)],
        "makes a text upper case",
    ),
    _Family(
        "lower to_lower",
        "Return {0} in lower case.",
        "s text word",
        "return {0}.lower()",
        [("ABC",), ("x",)],
        "makes a text lower case",
    ),
    _Family(
        "length count_items size",
        "Return the number of items in {0}.",
        "s items values data",
        "return len({0})",
        [("abc",), ([1, 2],)],
        "returns the length of a list",
    ),
    _Family(
        "first first_item head",
        "Return the first item of {0}.",
        "items values data xs",
        "return {0}[0]",
        [("abc",), ([1, 2],)],
        "returns the first item of a list",
    ),
    _Family(
        "last last_item tail",
        "Return the last item of {0}.",
        "items values data xs",
        "return {0}[-1]",
        [("abc",), ([1, 2],)],
        "returns the last item of a list",
    ),
    _Family(
        "total sum_list add_all",
        "Return the sum of {0}.",
        "items values numbers xs",
        "total = 0\nfor x in {0}:\n    total += x\nreturn total",
        [([1, 2],), ([4],)],
        "sums a list",
    ),
    _Family(
        "average mean",
        "Return the average of {0}.",
        "values numbers xs data",
        "return sum({0}) / len({0})",
        [([1, 2],), ([4],)],
        "returns the average of a list",
    ),
    _Family(
        "largest maximum biggest",
        "Return the largest value in {0}.",
        "values numbers xs data",
        "return max({0})",
        [([1, 2],), ([4],)],
        "returns the largest value of a list",
    ),
    _Family(
        "smallest minimum lowest",
        "Return the smallest value in {0}.",
        "values numbers xs data",
        "return min({0})",
        [([1, 2],), ([4],)],
        "returns the smallest value of a list",
    ),
    _Family(
        "squares square_all",
        "Return a list of the squares of {0}.",
        "values numbers xs",
        "return [n * n for n in {0}]",
        [([1, 2],), ([4],)],
        "squares all numbers of a list",
    ),
    _Family(
        "only_even evens filter_even",
        "Return the even numbers in {0}.",
        "values numbers xs",
        "return [n for n in {0} if n % 2 == 0]",
        [([1, 2],), ([4],)],
        "keeps the even numbers of a list",
    ),
    _Family(
        "join_words join_all",
        "Return the words in {0} joined by spaces.",
        "words items parts",
        'return " ".join({0})',
        [(["a", "b"],)],
        "joins words with spaces",
    ),
    _Family(
        "split_words words_of",
        "Return a list of the words in {0}.",
        "s text line",
        "return {0}.split()",
        [("a b",)],
        "splits a text into words",
    ),
    _Family(
        "contains has_item",
        "Return True if {1} is in {0}.",
        "items,item values,value xs,x",
        "return {1} in {0}",
        [([1, 2], 2), ([4], 1)],
        "checks if an item is in a list",
    ),
    _Family(
        "greet say_hello",
        "Return a greeting for {0}.",
        "name person",
        'return "Hello, " + {0} + "!"',
        [("Ann",)],
        "greets a person",
    ),
    _Family(
        "larger max_of_two bigger",
        "Return the larger of {0} and {1}.",
        "a,b x,y m,n",
        "if {0} > {1}:\n    return {0}\nreturn {1}",
        [(1, 2), (7, 5)],
        "returns the larger of two numbers",
    ),
    _Family(
        "absolute abs_value",
        "Return the absolute value of {0}.",
        "x n number",
        "if {0} < 0:\n    return -{0}\nreturn {0}",
        [(3,), (-4,)],
        "returns the absolute value",
    ),
    _Family(
        "factorial fact",
        "Return the factorial of {0}.",
        "n x number",
        "result = 1\nfor i in range(1, {0} + 1):\n    result *= i\nreturn result",
        [(3,), (5,)],
        "computes the factorial",
    ),
    _Family(
        "count_vowels vowels",
        "Return the number of vowels in {0}.",
        "s text word",
        'count = 0\nfor c in {0}:\n    if c in "aeiou":\n        count += 1\nreturn count',
        [("banana",)],
        "counts the vowels in a text",
    ),
    _Family(
        "is_empty empty",
        "Return True if {0} is empty.",
        "s items values",
        "return len({0}) == 0",
        [("",), ([1],)],
        "checks if a list is empty",
    ),
    _Family(
        "area rectangle_area",
        "Return the area of a rectangle.",
        "width,height w,h",
        "return {0} * {1}",
        [(3, 2), (5, 7)],
        "computes the area of a rectangle",
    ),
)


@dataclass(frozen=True)
class _Function:
    name: str
    parameters: list[str]
    head: str
    documentation: str
    body: str
    family: _Family

    @property
    def reference(self) -> dict[str, Any]:
        """What `exec` compares with."""
        return {"name": self.name, "tests": self.family.tests, "ref": self.head + self.body}


def _function(draw: Draw) -> _Function:
    def pick() -> tuple[_Family, str, str]:
        family = draw.pick(_FAMILIES)
        return family, draw.pick(family.names.split()), draw.pick(family.parameters.split())

    family, name, together = draw.of_split(pick, lambda v: f"code {v[1]}({v[2]})")
    parameters = together.split(",")
    lines = family.body.format(*parameters).split("\n")
    return _Function(
        name,
        parameters,
        f"def {name}({', '.join(parameters)}):\n",
        f'    """{family.documentation.format(*parameters)}"""\n',
        "".join(f"    {line}\n" for line in lines),
        family,
    )


def complete(draw: Draw) -> Sample:
    """A function from its signature, or from words."""
    made, kind = _function(draw), draw.random.random()
    start = made.head + made.documentation
    if kind < 0.45:
        expect = made.reference | {"pre": start, "post": ""}
        return Sample("code", made.body, "exec", expect, raw_prompt=start)
    expect = made.reference | {"pre": "", "post": ""}
    if kind < 0.75:
        wordings = [
            "Write a Python function {f} that {d}.",
            "Write a function {f} in Python that {d}.",
            "Python function {f}: {d}.",
        ]
        call = f"{made.name}({', '.join(made.parameters)})"
        question = draw.wording(wordings, ["Please write the Python function {f} that {d}."])
        question = question.format(f=call, d=made.family.request)
        answer = f"```python\n{made.head}{made.body}```"
    else:
        begin = draw.pick(("Complete this code:\n", "Complete the function.\n", "Finish this Python code:\n"))
        question, answer = f"{begin}```python\n{start}```", f"```python\n{start}{made.body}```"
    return Sample("code", answer, "exec", expect, [user(question)])


def fill(draw: Draw) -> Sample:
    """What is missing in the middle: the body, a line, or the rest of one."""
    made = _function(draw)
    use = draw.pick(("x = {f}(data)\nprint(x)\n", "print({f})\n", "", "result = {f}\n")).format(f=made.name)
    lines, start = made.body.splitlines(keepends=True), made.head + made.documentation
    kind, at = draw.random.random(), draw.whole(0, len(lines) - 1)
    before, line, after = "".join(lines[:at]), lines[at], "".join(lines[at + 1 :])
    if kind < 0.4:
        before, middle, after = "", made.body, ""
    elif kind < 0.75:
        middle = line
    else:
        cut = line.find(" ", len(line) - len(line.lstrip()))
        cut = cut if cut > 0 else len(line) - 2
        before, middle = before + line[:cut], line[cut:]
        if draw.chance(0.6):  # as an editor asks at the end of a line: its line feed comes after the gap
            middle, after = middle.removesuffix("\n"), f"\n{after}"
    prefix, suffix = start + before, f"{after}\n{use}"
    expect = made.reference | {"pre": prefix, "post": suffix.removesuffix(use) if use else suffix}
    prompt = f"<|fim_pre|>{prefix}<|fim_suf|>{suffix}<|fim_mid|>"
    return Sample("fill-in-the-middle", middle, "exec", expect, raw_prompt=prompt)
