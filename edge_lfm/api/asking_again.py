"""The soft way to a form: ask, check the answer, and ask again with what was wrong, a few times.

Knows messages and checks; does not know who asks, so that threads, asyncio and the server ask in their own way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edge_lfm.api.checking import check_whole, checked
from edge_lfm.api.options import Message, Messages
from edge_lfm.errors import CheckError, MissingExtraError, UsageError

Check = Callable[[str], "str | None"]
MAX_TRIES = 10


class Retry:
    """The tries at one answer: ask `messages`, tell `passes` the answer's text, until it passes.

    Raises:
        UsageError: `tries` is not 1..10.
    """

    def __init__(self, messages: Sequence[Message], check: Check, tries: int) -> None:
        check_whole("tries", tries, 1, MAX_TRIES)
        self.messages: Messages = list(messages)
        self._check = check
        self._tries, self._left = tries, tries

    def passes(self, text: str) -> bool:
        """Whether an answer passes the check; if not, `messages` then ask again, with what was wrong.

        Raises:
            CheckError: it does not, and was the last one.
        """
        problem = self._check(text)
        if problem is None:
            return True
        self._left -= 1
        if not self._left:
            raise CheckError(f"after {self._tries} tries: {problem}", hint="bind the answer with a grammar instead")
        wrong = f"That is not valid: {problem} Answer again, with nothing else."
        self.messages += [{"role": "assistant", "content": text}, {"role": "user", "content": wrong}]
        return False


@checked
def json_check(schema: Mapping[str, Any] | bool, patterns: bool = True) -> Check:
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
    except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise UsageError(f"the schema is none: {error!s:.200}", hint="give a JSON schema") from None
    if not patterns and _has_pattern(schema):
        raise UsageError(
            "a schema with a pattern is checked while it binds only", hint="leave out soft, or the pattern"
        )
    validator = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())

    @checked
    def check(text: str) -> str | None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            return f"it is not JSON ({error})."
        try:
            problem = next(validator.iter_errors(value), None)
        except (referencing.exceptions.Unresolvable, re.error, TypeError, ArithmeticError, RecursionError) as error:
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
