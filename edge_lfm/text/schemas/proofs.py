"""What can be shown about schemas without trying values: that no value can fit several at once.

Every answer is one-sided: False means "not shown", never the opposite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_lfm.text.schemas.document import TYPES, Document, Schema
from edge_lfm.text.schemas.values import Checker

MAX_STEPS, MAX_DEPTH = 20_000, 12


class Prover:
    """Shows that schemas have no value in common. Its steps are counted: after 0.1 s or so it shows nothing more."""

    def __init__(self, document: Document) -> None:
        self._document, self._checker = document, Checker(document)
        self._steps = MAX_STEPS

    def impossible(self, schemas: Sequence[Schema], depth: int = 0) -> bool:
        """Whether it is certain that no value fits all of these."""
        self._steps -= 1
        if depth > MAX_DEPTH or self._steps < 0:
            return False
        parts = self._flat(schemas)
        if parts is None:
            return True
        enums = [part["enum"] for part in parts if "enum" in part]
        if enums:
            return all(any(self._checker.accepts(part, v) is False for part in parts) for v in enums[0])
        types = self._types(parts)
        if not types:
            return True
        checks = {"object": self._no_object, "string": _no_string, "array": _no_array}
        if all(checks.get(t, _no_number if t in ("integer", "number") else _never)(parts, depth) for t in types):
            return True
        return self._alternatives(parts, depth)

    def parts_of(self, schemas: Sequence[Schema]) -> list[dict[str, Any]]:
        """The schemas with references and allOf opened, side by side."""
        return self._flat(schemas) or []

    def _flat(self, schemas: Sequence[Schema]) -> list[dict[str, Any]] | None:
        """The schemas with references and allOf opened; None if one is false."""
        parts, stack, seen = list[dict[str, Any]](), list(schemas), set[str]()
        while stack:
            schema = stack.pop()
            if schema is False:
                return None
            if schema is True:
                continue
            parts.append(schema)
            stack += schema.get("allOf", ())
            name = schema.get("$ref")
            if name is not None and name not in seen:
                seen.add(name)
                stack.append(self._document.target(name))
        return parts

    def _types(self, parts: Sequence[dict[str, Any]]) -> set[str]:
        types = set(TYPES)
        for part in parts:
            if "type" in part:
                accepted = set(part["type"]) | ({"integer"} if "number" in part["type"] else set())
                types &= accepted
        return types - ({"integer"} if "number" in types else set())

    def _alternatives(self, parts: list[dict[str, Any]], depth: int) -> bool:
        """Whether none of the alternatives of one part is possible beside the others."""
        for n, part in enumerate(parts):
            for key in ("anyOf", "oneOf"):
                if key not in part:
                    continue
                rest = [{k: v for k, v in part.items() if k not in (key, "allOf", "$ref")}]
                beside: list[Schema] = [*rest, *parts[:n], *parts[n + 1 :]]
                if all(self.impossible([option, *beside], depth + 1) for option in part[key]):
                    return True
        return False

    def _no_object(self, parts: list[dict[str, Any]], depth: int) -> bool:
        required = dict.fromkeys(name for part in parts for name in part.get("required", ()))
        if len(required) > min(
            (part["maxProperties"] for part in parts if "maxProperties" in part), default=len(required)
        ):
            return True
        return any(self.impossible([property_of(part, name) for part in parts], depth + 1) for name in required)


def property_of(part: dict[str, Any], name: str) -> Schema:
    """What a schema says of one property, as far as that is certain: patterns are taken to match nothing."""
    if name in part.get("properties", {}):
        schema: Schema = part["properties"][name]
        return schema
    if part.get("patternProperties"):
        return True
    return part.get("additionalProperties", True)  # type: ignore[no-any-return]


def _bounds(parts: Sequence[dict[str, Any]], low: str, high: str) -> tuple[float, float]:
    lows = [part[low] for part in parts if low in part]
    highs = [part[high] for part in parts if high in part]
    return max(lows, default=float("-inf")), min(highs, default=float("inf"))


def _no_string(parts: Sequence[dict[str, Any]], depth: int) -> bool:
    low, high = _bounds(parts, "minLength", "maxLength")
    return low > high


def _no_array(parts: Sequence[dict[str, Any]], depth: int) -> bool:
    low, high = _bounds(parts, "minItems", "maxItems")
    return low > high


def _no_number(parts: Sequence[dict[str, Any]], depth: int) -> bool:
    low, high = _bounds(parts, "minimum", "maximum")
    above, below = _bounds(parts, "exclusiveMinimum", "exclusiveMaximum")
    return low > high or above >= below or above >= high or low >= below


def _never(parts: Sequence[dict[str, Any]], depth: int) -> bool:
    return False
