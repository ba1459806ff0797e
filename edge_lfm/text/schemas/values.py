"""Whether a schema accepts a value, in bounded time: every step is counted. None stands for "not found out"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

from edge_lfm.text.schemas.document import KEYWORDS_OF, Document, Schema, same, type_of

MAX_STEPS, MAX_DEPTH = 20_000, 60
_MEMBERS_A_STEP = 50
"""Of an enumeration, or a list of names: they are gone through in the time of one step."""


class Checker:
    """Checks values against the schemas of one document.

    patterns: "unknown": what they say is not found out, for a hostile one keeps Python's `re` busy for ever; "bound":
        they hold, for a grammar has seen to it; "tried": by `re`.
    """

    def __init__(self, document: Document, patterns: Literal["unknown", "bound", "tried"] = "unknown") -> None:
        self._document, self._patterns = document, patterns
        self._steps = 0

    def accepts(self, schema: Schema, value: Any) -> bool | None:
        """Whether a schema accepts a value; None if that is not found out."""
        self._steps = 0
        return self._accepts(schema, value, 0)

    def problem(self, schema: Schema, value: Any) -> str | None:
        """The keyword that a value breaks, and where; None if it breaks none."""
        self._steps = 0
        return self._problem(schema, value, "the arguments", 0)

    def _problem(self, schema: Schema, value: Any, where: str, depth: int) -> str | None:
        if self._accepts(schema, value, depth) is True:
            return None
        if isinstance(schema, bool):
            return f"{where} must not be there"
        for name, part in schema.get("properties", {}).items() if isinstance(value, dict) else ():
            if name in value and (problem := self._problem(part, value[name], name, depth + 1)) is not None:
                return problem
        for key, operand in schema.items():
            if self._keyword(key, operand, value, schema, depth) is not True:
                return f"{where} must satisfy {key} {operand!r:.120}"
        return None

    def _accepts(self, schema: Schema, value: Any, depth: int) -> bool | None:
        if isinstance(schema, bool):
            return schema
        return _all([self._keyword(key, operand, value, schema, depth) for key, operand in schema.items()])

    def _keyword(self, key: str, operand: Any, value: Any, schema: dict[str, Any], depth: int) -> bool | None:
        self._steps += 1 + (len(operand) // _MEMBERS_A_STEP if isinstance(operand, list | dict) else 0)
        if depth > MAX_DEPTH or self._steps > MAX_STEPS:
            return None
        kind = type_of(value)
        owner = next((t for t, keys in KEYWORDS_OF.items() if key in keys), None)
        if owner == "object" == kind:
            return self._of_object(key, operand, value, schema, depth + 1)
        if owner == "array" == kind:
            return self._of_array(key, operand, value, schema, depth + 1)
        if owner == "string" == kind:
            return self._of_string(key, operand, value)
        if owner == "number" and kind in ("integer", "number"):
            return _of_number(key, operand, value)
        return self._of_any(key, operand, value, schema, depth + 1) if owner is None else True

    def _of_any(self, key: str, operand: Any, value: Any, schema: dict[str, Any], depth: int) -> bool | None:
        match key:
            case "type":
                kind = type_of(value)
                return kind in operand or (kind == "integer" and "number" in operand)
            case "enum":
                return value in operand if isinstance(value, str) else any(same(value, v) for v in operand)
            case "$ref":
                return self._accepts(self._document.target(operand), value, depth)
            case "allOf":
                return _all([self._accepts(part, value, depth) for part in operand])
            case "anyOf":
                return _not(_all([_not(self._accepts(part, value, depth)) for part in operand]))
            case "oneOf":
                verdicts = [self._accepts(part, value, depth) for part in operand]
                return False if verdicts.count(True) > 1 else None if None in verdicts else verdicts.count(True) == 1
            case "not":
                return _not(self._accepts(operand, value, depth))
            case "if":
                holds = self._accepts(operand, value, depth)
                branch = schema.get("then" if holds else "else", True)
                return None if holds is None else self._accepts(branch, value, depth)
        return True  # then and else, which `if` has heeded

    def _of_object(self, key: str, operand: Any, value: Any, schema: dict[str, Any], depth: int) -> bool | None:
        match key:
            case "minProperties":
                return bool(len(value) >= operand)
            case "maxProperties":
                return bool(len(value) <= operand)
            case "required":
                return all(name in value for name in operand)
            case "properties":
                return _all([self._accepts(part, value[k], depth) for k, part in operand.items() if k in value])
            case "patternProperties" if self._patterns == "bound":
                return True
            case "patternProperties":
                pairs = [(self._search(p, k), part, v) for k, v in value.items() for p, part in operand.items()]
                return _all([self._accepts(s, v, depth) if hit else _not(hit) for hit, s, v in pairs])
            case "additionalProperties":
                return _all([self._other(k, v, operand, schema, depth) for k, v in value.items()])
            case "propertyNames":
                return _all([self._accepts(operand, k, depth) for k in value])
            case "dependentRequired":
                return all(name in value for k, names in operand.items() if k in value for name in names)
            case "dependentSchemas":
                return _all([self._accepts(part, value, depth) for k, part in operand.items() if k in value])
        return True if operand is True else None

    def _other(self, name: str, value: Any, operand: Schema, schema: dict[str, Any], depth: int) -> bool | None:
        """additionalProperties, of one property."""
        hits = [self._search(pattern, name) for pattern in schema.get("patternProperties", ())]
        if name in schema.get("properties", ()) or (True in hits):
            return True
        return None if None in hits else self._accepts(operand, value, depth)

    def _of_array(self, key: str, operand: Any, value: Any, schema: dict[str, Any], depth: int) -> bool | None:
        match key:
            case "minItems":
                return bool(len(value) >= operand)
            case "maxItems":
                return bool(len(value) <= operand)
            case "items":
                return _all([self._accepts(operand, v, depth) for v in value[len(schema.get("prefixItems", ())) :]])
            case "prefixItems":
                return _all([self._accepts(part, v, depth) for part, v in zip(operand, value, strict=False)])
            case "uniqueItems":
                self._steps += len(value) ** 2
                if self._steps > MAX_STEPS:
                    return None
                return not any(same(one, other) for n, one in enumerate(value) for other in value[:n])
            case "contains":
                verdicts = [self._accepts(operand, v, depth) for v in value]
                low, high = schema.get("minContains", 1), schema.get("maxContains", len(value))
                return None if None in verdicts else low <= verdicts.count(True) <= high
            case "minContains" | "maxContains":
                return True
        return True if operand is True else None

    def _of_string(self, key: str, operand: Any, value: str) -> bool | None:
        if key == "pattern":
            return self._search(operand, value)
        return key == "format" or (len(value) >= operand if key == "minLength" else len(value) <= operand)

    def _search(self, pattern: str, text: str) -> bool | None:
        if self._patterns != "tried":
            return True if self._patterns == "bound" else None
        try:
            return re.search(pattern, text) is not None
        except (re.error, RecursionError):
            return None


def _of_number(key: str, operand: Any, value: Any) -> bool | None:
    match key:
        case "minimum":
            return bool(value >= operand)
        case "maximum":
            return bool(value <= operand)
        case "exclusiveMinimum":
            return bool(value > operand)
        case "exclusiveMaximum":
            return bool(value < operand)
    try:
        return Decimal(str(value)) % Decimal(str(operand)) == 0 if operand > 0 else None
    except ArithmeticError:
        return None


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    return False if False in verdicts else None if None in verdicts else True


def _not(verdict: bool | None) -> bool | None:
    return None if verdict is None else not verdict
