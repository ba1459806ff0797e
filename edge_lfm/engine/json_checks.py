"""Whether a text is JSON that a schema accepts, and what is wrong with it. Through jsonschema; imports little."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from edge_lfm.errors import MissingExtraError, UsageError
from edge_lfm.text.json_values import read_json

Check = Callable[[str], "str | None"]


def make_check(schema: Mapping[str, Any] | bool, patterns: bool) -> Check:
    """What gives the fault of a text, or None; see `json_check` of the API."""
    try:
        import jsonschema
        import referencing
    except ImportError:
        raise MissingExtraError("checking JSON needs jsonschema", extra="grammar") from None
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

    def check(text: str) -> str | None:
        try:
            value = read_json(text)
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
