"""What a schema does not accept, as schemas: the complement, a union of parts that a grammar can bind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from edge_lfm.text.schemas.document import KEYWORDS_OF, TYPES, Document, Schema, type_of
from edge_lfm.text.schemas.proofs import Prover, property_of

MAX_DEPTH = 8
_ANNOTATIONS = ("format", "then", "else")
_OPPOSITE = {
    "minimum": "exclusiveMaximum", "maximum": "exclusiveMinimum",
    "exclusiveMinimum": "maximum", "exclusiveMaximum": "minimum",
}  # fmt: skip
_LENGTHS = {
    "minLength": ("maxLength", -1), "maxLength": ("minLength", 1), "minItems": ("maxItems", -1),
    "maxItems": ("minItems", 1), "minProperties": ("maxProperties", -1), "maxProperties": ("minProperties", 1),
}  # fmt: skip


class NoComplementError(Exception):
    """The complement of a keyword has no schema that can be bound; its argument is the keyword."""


class Complement:
    """Finds what schemas do not accept, among the values that a context accepts: there, more can be said."""

    def __init__(self, document: Document, prover: Prover, context: Sequence[Schema]) -> None:
        self._document, self._prover = document, prover
        self._context = prover.parts_of(context)

    def of(self, schema: Schema, depth: int = 0) -> list[Schema]:
        """Schemas that together accept exactly what a schema does not.

        Raises:
            NoComplementError: there are none that a grammar can bind.
        """
        if isinstance(schema, bool):
            return [not schema]
        if depth > MAX_DEPTH:
            raise NoComplementError("$ref")
        complements: list[Schema] = []
        for key, operand in schema.items():
            owner = next((t for t, keys in KEYWORDS_OF.items() if key in keys), None)
            types = {owner, "integer" if owner == "number" else owner}
            if key in _ANNOTATIONS or (owner is not None and types.isdisjoint(schema.get("type", types))):
                continue  # it says nothing, or speaks of a type that is refused anyway
            parts = self._of_keyword(key, operand, schema, depth + 1)
            complements += [{"type": [owner], **p} if owner is not None and isinstance(p, dict) else p for p in parts]
        return complements

    def _of_keyword(self, key: str, operand: Any, schema: dict[str, Any], depth: int) -> list[Schema]:
        if key in _LENGTHS:
            opposite, step = _LENGTHS[key]
            return [{opposite: operand + step}] if operand + step >= 0 else []
        if key in _OPPOSITE:
            return [{_OPPOSITE[key]: operand}]
        if key in ("type", "enum"):
            return _not_of_types(operand) if key == "type" else none_of(operand)
        match key:
            case "$ref":
                return self.of(self._document.target(operand), depth)
            case "not":
                return [operand]
            case "allOf":
                return [part for option in operand for part in self.of(option, depth)]
            case "anyOf" | "oneOf" if key == "anyOf" or self._disjoint(operand):
                return [self._none(operand, depth)]
            case "if":
                return self._of_condition(schema, depth)
            case "required":
                return [{"properties": {name: False}} for name in operand]
            case "properties":
                return self._of_properties(operand, depth)
            case "additionalProperties":
                return self._of_others(operand, schema, depth)
            case "items" if "prefixItems" not in schema and self._no_item(operand):
                return [{"minItems": 1}]
            case "items" | "unevaluatedProperties" | "unevaluatedItems" if operand is True:
                return []
        raise NoComplementError(key)

    def _none(self, options: Sequence[Schema], depth: int) -> Schema:
        return {"allOf": [{"anyOf": self.of(option, depth)} for option in options]}

    def _disjoint(self, options: Sequence[Schema]) -> bool:
        pairs = ((one, other) for n, one in enumerate(options) for other in options[:n])
        return all(self._prover.impossible([*self._context, *pair]) for pair in pairs)

    def _of_condition(self, schema: dict[str, Any], depth: int) -> list[Schema]:
        then, other, condition = schema.get("then", True), schema.get("else", True), schema["if"]
        complements: list[Schema] = []
        if then is not True:
            complements.append({"allOf": [condition, {"anyOf": self.of(then, depth)}]})
        if other is not True:
            complements.append({"allOf": [{"anyOf": self.of(condition, depth)}, {"anyOf": self.of(other, depth)}]})
        return complements

    def _of_properties(self, properties: dict[str, Schema], depth: int) -> list[Schema]:
        inner = {
            name: Complement(self._document, self._prover, [property_of(p, name) for p in self._context])
            for name in properties
        }
        parts = [(name, part) for name, inside in properties.items() for part in inner[name].of(inside, depth)]
        return [{"required": [name], "properties": {name: part}} for name, part in parts if part is not False]

    def _of_others(self, others: Schema, schema: dict[str, Any], depth: int) -> list[Schema]:
        """additionalProperties: some other property is there, of those that the context lists."""
        if others is True:
            return []
        closed = [p for p in self._context if p.get("additionalProperties") is False and "patternProperties" not in p]
        if not closed or "patternProperties" in schema:
            raise NoComplementError("additionalProperties")
        names = set.intersection(*(set(p.get("properties", ())) for p in closed)) - set(schema.get("properties", ()))
        refused = self.of(others, depth)
        return [{"required": [name], "properties": {name: {"anyOf": refused}}} for name in sorted(names)]

    def _no_item(self, items: Schema) -> bool:
        """Whether no item of the context's arrays passes: then only empty ones do."""
        known_items = [p["items"] for p in self._context if "items" in p and "prefixItems" not in p]
        return bool(known_items) and self._prover.impossible([*known_items, items])


def _not_of_types(types: Sequence[str]) -> list[Schema]:
    if "integer" in types:
        raise NoComplementError("type integer")
    others = [t for t in TYPES if t not in types and t != "integer"]
    return [{"type": others}] if others else []


def none_of(values: Sequence[Any]) -> list[Schema]:
    """Schemas of everything but these values."""
    kinds = {type_of(value) for value in values}
    if kinds & {"object", "array"}:
        raise NoComplementError("enum")
    others: list[Schema] = [{"type": ["object"]}, {"type": ["array"]}]
    if "null" not in kinds:
        others.append({"type": ["null"]})
    booleans = [v for v in (True, False) if not any(v is value for value in values)]
    if booleans:
        others.append({"enum": booleans})
    strings = [value for value in values if isinstance(value, str)]
    others.append({"type": ["string"], **({"pattern": f"^{other_than(strings)}$"} if strings else {})})
    numbers = sorted(v for v in values if isinstance(v, int | float) and not isinstance(v, bool))
    for low, high in zip([None, *numbers], [*numbers, None], strict=True):
        bounds = {"exclusiveMinimum": low, "exclusiveMaximum": high}
        others.append({"type": ["number"], **{k: v for k, v in bounds.items() if v is not None}})
    return others


def other_than(texts: Sequence[str]) -> str:
    """A regular expression of every text but these."""
    if not texts:
        return r"[\s\S]*"
    tails: dict[str, list[str]] = {}
    for text in texts:
        if text:
            tails.setdefault(text[0], []).append(text[1:])
    options = [] if "" in texts else [""]
    options.append(f"[^{''.join(map(_in_class, tails))}][\\s\\S]*" if tails else r"[\s\S]+")
    options += [f"{_escaped(first)}{other_than(rest)}" for first, rest in tails.items()]
    return f"(?:{'|'.join(options)})"


def _escaped(character: str) -> str:
    return re.escape(character) if character.isascii() and character.isprintable() else f"\\u{{{ord(character):x}}}"


def _in_class(character: str) -> str:
    return f"\\{character}" if character in "^]-\\[&~|" else _escaped(character)
