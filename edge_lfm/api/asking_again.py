"""The soft way to a form: ask, check the answer, and ask again with what was wrong, a few times."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from edge_lfm.api.requests import Messages, Prompt, as_messages
from edge_lfm.engine.events import Completion
from edge_lfm.errors import CheckError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from edge_lfm.api.model import Model

Check = Callable[[str], "str | None"]
MOST_TRIES = 10


def ask_until(model: Model, prompt: Prompt, check: Check, tries: int = 3, **options: Any) -> Completion:
    """An answer that passes a check.

    Args:
        prompt: a user's text, or messages.
        check: gives what is wrong with an answer, or None.
        tries: the most answers, the first included.
        options: as in `Model.generate`.

    Raises:
        CheckError: the last answer did not pass either.
        EdgeLfmError: as `Model.generate`.
    """
    if isinstance(tries, bool) or not isinstance(tries, int) or not 1 <= tries <= MOST_TRIES:
        raise UsageError(f"tries is {tries!r:.40}", hint=f"it must be a whole number of 1..{MOST_TRIES}")
    messages = as_messages(prompt, options.pop("system", None))
    for _ in range(tries):
        answer = model.generate(messages, **options)
        problem = check(answer.text)
        if problem is None:
            return answer
        messages = again(messages, answer.text, problem)
    raise CheckError(f"after {tries} tries: {problem}", hint="bind the answer with a grammar instead")


def again(messages: Messages, text: str, problem: str) -> Messages:
    """The conversation with an answer that did not pass, and what was wrong with it."""
    wrong = f"That is not valid: {problem} Answer again, with nothing else."
    return [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": wrong}]


def json_check(schema: Mapping[str, Any], patterns: bool = True) -> Check:
    """A check that an answer is JSON that a schema accepts. References are found in the schema only, never fetched.

    Args:
        patterns: whether the schema may have regular expressions. A hostile one keeps Python's `re` busy for ever, so
            a schema from outside should have none.

    Raises:
        MissingExtraError: jsonschema is not installed.
        UsageError: the schema is none; from the check: it refers to what it does not hold, or to itself for ever.
    """
    try:
        import jsonschema
        import referencing
    except ImportError:
        raise MissingExtraError("checking JSON needs jsonschema", hint="pip install 'edge-lfm[grammar]'") from None
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise UsageError(f"the schema is none: {error.message:.200}", hint="give a JSON schema") from None
    if not patterns and _has_pattern(schema):
        raise UsageError(
            "a schema with a pattern is checked while it binds only", hint="leave out soft, or the pattern"
        )
    validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())

    def check(text: str) -> str | None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"it is not JSON ({error})."
        try:
            problem = next(validator.iter_errors(value), None)
        except (referencing.exceptions.Unresolvable, RecursionError) as error:
            raise UsageError(f"the schema cannot be checked: {error!s:.200}", hint="mend the schema") from None
        return None if problem is None else f"{problem.message:.300}."

    return check


def _has_pattern(schema: Any) -> bool:
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            if isinstance(item.get("pattern"), str) or isinstance(item.get("patternProperties"), Mapping):
                return True
            stack += item.values()
        elif isinstance(item, list):
            stack += item
    return False
