"""The soft way to a form: ask, check the answer, and ask again with what was wrong, a few times.

Knows messages and checks; does not know who asks, so that threads, asyncio and the server ask in their own way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_lfm.api.options import Message, Messages
from edge_lfm.checking import check_whole, checked
from edge_lfm.engine.json_checks import Check as Check
from edge_lfm.engine.json_checks import make_check
from edge_lfm.errors import CheckError

MAX_TRIES = 10
CALL_TRIES = 3
"""Of a call that broke a schema which cannot be bound in full."""


class Retry:
    """The tries at one answer: ask `messages`, tell `passes` the answer's text, until it passes.

    Raises:
        UsageError: `tries` is not 1..10.
    """

    @checked
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
    return checked(make_check(schema, patterns))
