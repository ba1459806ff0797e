"""A schema rewritten into the keywords that the grammar engine binds: `oneOf`, `not`, `if`, dependencies and names of
properties become unions of plain schemas.

What cannot be said that way is left out and told (`Bound.lost`): the rest accepts too much, and whoever uses it must
refuse the schema or check the value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from edge_lfm.text.schemas.document import Document, Schema, read_schema
from edge_lfm.text.schemas.negation import Complement, NoComplementError
from edge_lfm.text.schemas.proofs import Prover
from edge_lfm.text.schemas.values import Checker

MAX_DEPTH, MAX_OPTIONS = 40, 256
_PLAIN = (
    "type", "$ref", "items", "prefixItems", "minItems", "maxItems", "properties", "additionalProperties",
    "patternProperties", "required", "minProperties", "maxProperties", "minLength", "maxLength", "pattern", "format",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
)  # fmt: skip
_UNWRITABLE = frozenset(map(chr, range(32))) - set("\n\r\t\b\f")
"""Control characters that JSON writes as \\u00XX only; see `json_style.py`."""


@dataclass(frozen=True)
class Loss:
    """A keyword that the rewritten schema does not hold. patterns: a check of it has to try regular expressions."""

    keyword: str
    patterns: bool = False
    checkable: bool = True


@dataclass(frozen=True)
class Bound:
    """A schema for the grammar engine. definitions: what it refers to. document: what was rewritten."""

    root: Schema
    definitions: dict[str, Schema]
    document: Document
    lost: tuple[Loss, ...]

    def with_definitions(self, schema: Schema) -> Schema:
        """A schema of this document, together with the definitions that it reaches, and no others."""
        reached: dict[str, Schema] = {}
        stack: list[Any] = [schema]
        while stack:
            item = stack.pop()
            if isinstance(item, list):
                stack += item
            elif isinstance(item, dict):
                stack += [v for k, v in item.items() if k != "enum"]
                name = item.get("$ref")
                if isinstance(name, str):
                    name = name.rpartition("/")[2]
                    if name not in reached:
                        reached[name] = self.definitions[name]
                        stack.append(reached[name])
        return {**schema, "$defs": reached} if reached and isinstance(schema, dict) else schema

    @property
    def whole(self) -> Schema:
        """The schema with its definitions."""
        return self.with_definitions(self.root)


def bind(schema: Any) -> Bound:
    """Rewrite a schema.

    Raises:
        GrammarError: it is none; see `read_schema`.
    """
    document = read_schema(schema)
    rewriter = _Rewriter(document)
    root = rewriter.rewrite(document.root)
    definitions = {name: rewriter.rewrite(target) for name, target in document.definitions.items()}
    return Bound(root, definitions, document, tuple(dict.fromkeys(rewriter.lost)))


class _Rewriter:
    def __init__(self, document: Document) -> None:
        self._document, self._prover, self._checker = document, Prover(document), Checker(document)
        self.lost: list[Loss] = []

    def rewrite(self, schema: Schema, depth: int = 0) -> Schema:
        """One schema, and those inside it."""
        if isinstance(schema, bool):
            return schema
        if depth > MAX_DEPTH:
            self._lose("schemas inside schemas", True)
            return True
        if "enum" in schema:
            return self._rewrite_enum(schema, depth)
        rewritten: dict[str, Any] = {}
        for key in _PLAIN:
            if key == "pattern" and _looks_around(schema.get("pattern", "")):
                self._lose("a pattern that looks around", schema)
            elif key in schema:
                rewritten[key] = self._inside(key, schema[key], depth + 1)
        parts = self._special(schema, depth + 1)
        if schema.get("unevaluatedProperties", True) is not True or schema.get("unevaluatedItems", True) is not True:
            self._unevaluated(schema, rewritten)
        if False in parts:
            return False
        parts = [part for part in parts if part is not True]
        if not rewritten and len(parts) == 1:
            return parts[0]
        return {**rewritten, **({"allOf": parts} if parts else {})} if rewritten or parts else True

    def _lose(self, keyword: str, *schemas: Schema, checkable: bool = True) -> None:
        self.lost.append(Loss(keyword, has_pattern(self._document, schemas), checkable))

    def _inside(self, key: str, value: Any, depth: int) -> Any:
        if key == "$ref":
            return f"#/$defs/{value}"
        if key in ("items", "additionalProperties"):
            return self.rewrite(value, depth)
        if key == "prefixItems":
            return [self.rewrite(item, depth) for item in value]
        if key in ("properties", "patternProperties"):
            return {name: self.rewrite(item, depth) for name, item in value.items()}
        return value

    def _rewrite_enum(self, schema: dict[str, Any], depth: int) -> Schema:
        """The values that the rest of the schema accepts; where that is not known, the rest stands beside them."""
        rest = {key: value for key, value in schema.items() if key != "enum"}
        verdicts = [self._checker.accepts(rest, value) for value in schema["enum"]]
        values = [v for v, verdict in zip(schema["enum"], verdicts, strict=True) if verdict is not False]
        if any(_unwritable(value) for value in values):
            self._lose("enum with a control character")
        if not values:
            return False
        if None not in verdicts:
            return {"enum": values}
        others = self.rewrite(rest, depth + 1)
        return others if others is False else {"enum": values, **({"allOf": [others]} if others is not True else {})}

    def _special(self, schema: dict[str, Any], depth: int) -> list[Schema]:
        """The keywords that the engine does not know, or not in full, as schemas that must all hold."""
        parts: list[Schema] = [self.rewrite(part, depth) for part in schema.get("allOf", ())]
        beside = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf", "not", "if")}
        if "anyOf" in schema:
            parts.append(self._union(schema["anyOf"], beside, depth))
        if "oneOf" in schema:
            parts.append(self._exactly_one(schema["oneOf"], beside, depth))
        if "not" in schema:
            parts.append(self._negated(schema["not"], beside, depth))
        if "if" in schema:
            parts.append(self._conditional(schema, beside, depth))
        for key, needed in schema.get("dependentRequired", {}).items():
            parts.append(self._depends(key, {"required": needed}, beside, depth))
        for key, needed in schema.get("dependentSchemas", {}).items():
            parts.append(self._depends(key, needed, beside, depth))
        if schema.get("propertyNames", True) is not True:
            parts.append(self._names(schema["propertyNames"], schema, depth))
        if ("contains" in schema and schema.get("minContains", 1) > 0) or "maxContains" in schema:
            self._lose("contains", schema.get("contains", True))
        if schema.get("uniqueItems") and schema.get("maxItems", 2) > 1:
            self._lose("uniqueItems")
        if "minProperties" in schema or "maxProperties" in schema:
            parts.append(self._counted(schema))
        return parts

    def _union(self, options: Sequence[Schema], beside: dict[str, Any], depth: int) -> Schema:
        """The options that are possible beside the rest of the schema."""
        kept = [option for option in options if not self._prover.impossible([beside, option])]
        rewritten: list[Schema] = []
        poorer: list[tuple[Schema, list[Loss]]] = []
        for option in kept:
            before = len(self.lost)
            made = self.rewrite(option, depth)
            if len(self.lost) > before:
                poorer.append((made, self.lost[before:]))
                del self.lost[before:]
            elif made is not False:
                rewritten.append(made)
        if all(option == {"type": ["null"]} for option in rewritten):  # else these will do
            for made, lost in poorer:
                rewritten.append(made)
                self.lost += lost
        if True in rewritten:
            return True
        return False if not rewritten else rewritten[0] if len(rewritten) == 1 else {"anyOf": rewritten}

    def _exactly_one(self, options: Sequence[Schema], beside: dict[str, Any], depth: int) -> Schema:
        """oneOf: each option without what another one accepts too."""
        possible = [option for option in options if not self._prover.impossible([beside, option])]
        kept: list[Schema] = []
        for n, option in enumerate(possible):
            others = [o for m, o in enumerate(possible) if m != n and not self._prover.impossible([beside, option, o])]
            try:
                without = [{"anyOf": self._complement(other, [beside, option])} for other in others]
            except NoComplementError as error:
                self._lose(f"oneOf over {error}", *options)
                without = []
            exactly: Schema = {"allOf": [option, *without]} if without else option
            kept.append(exactly)
        return self._union(kept, beside, depth)

    def _complement(self, schema: Schema, context: Sequence[Schema]) -> list[Schema]:
        """What a schema does not accept, without what the context refuses anyway."""
        parts = Complement(self._document, self._prover, context).of(schema)
        return [part for part in parts if not self._prover.impossible([*context, part])]

    def _negated(self, schema: Schema, beside: dict[str, Any], depth: int) -> Schema:
        try:
            return self._union(self._complement(schema, [beside]), beside, depth)
        except NoComplementError as error:
            self._lose(f"not over {error}", schema)
            return True

    def _conditional(self, schema: dict[str, Any], beside: dict[str, Any], depth: int) -> Schema:
        then, other = schema.get("then", True), schema.get("else", True)
        if then is True and other is True:
            return True
        try:
            unless = self._complement(schema["if"], [beside])
        except NoComplementError as error:
            self._lose(f"if over {error}", schema["if"])
            return True
        return self._union([{"allOf": [schema["if"], then]}, {"allOf": [{"anyOf": unless}, other]}], beside, depth)

    def _depends(self, key: str, needed: Schema, beside: dict[str, Any], depth: int) -> Schema:
        return self._union([{"properties": {key: False}}, {"allOf": [{"required": [key]}, needed]}], beside, depth)

    def _counted(self, schema: dict[str, Any]) -> Schema:
        """minProperties and maxProperties: which of the optional properties are there, one by one."""
        required = set(schema.get("required", ()))
        optional = [name for name in schema.get("properties", {}) if name not in required]
        low = schema.get("minProperties", 0) - len(required)
        high = schema.get("maxProperties", len(optional) + len(required)) - len(required)
        if schema.get("additionalProperties", True) is False and "patternProperties" not in schema:
            sizes = range(max(0, low), min(high, len(optional)) + 1)
            if low <= 0 and high >= len(optional):
                return True
            if sum(math.comb(len(optional), size) for size in sizes) <= MAX_OPTIONS:
                return _any_of([_exactly(chosen, optional) for n in sizes for chosen in combinations(optional, n)])
        elif low <= 1 and (not optional or "maxProperties" not in schema):
            none = _exactly((), optional)
            return _any_of([{"required": [name]} for name in optional] + [none]) if low == 1 and optional else True
        self._lose("minProperties" if "minProperties" in schema else "maxProperties")
        return True

    def _names(self, names: Schema, schema: dict[str, Any], depth: int) -> Schema:
        """propertyNames: of the listed properties those that it accepts; further ones by its values or its pattern."""
        listed = schema.get("properties", {})
        verdicts = {name: self._checker.accepts(names, name) for name in listed}
        others = schema.get("additionalProperties", True)
        closed: Schema | None = {"properties": {n: bool(v) for n, v in verdicts.items()}}
        if isinstance(names, dict):
            limits = {k: v for k, v in names.items() if k not in ("type", "format")}
            if "string" not in names.get("type", ["string"]):
                return {"properties": dict.fromkeys(listed, False), "additionalProperties": False}
            if None in verdicts.values() or ("patternProperties" in schema and others is not False):
                closed = None
            elif not limits:
                return True
            elif set(limits) == {"enum"}:
                free = {str(n): self.rewrite(others, depth) for n in limits["enum"] if n not in listed}
                closed = {"properties": {**closed["properties"], **free}, "additionalProperties": False}  # type: ignore[index]
            elif others is False:
                pass
            elif (pattern := _pattern_of(limits)) is not None and not listed:
                closed = {"patternProperties": {pattern: self.rewrite(others, depth)}, "additionalProperties": False}
            else:
                closed = None
        elif names is False:
            closed = {"properties": dict.fromkeys(listed, False), "additionalProperties": False}
        if closed is None:
            self._lose("propertyNames", names)
            return True
        return closed

    def _unevaluated(self, schema: dict[str, Any], rewritten: dict[str, Any]) -> None:
        """As additionalProperties and items, where no other part of the schema speaks of the same values."""
        if any(key in schema for key in ("$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "contains")):
            self._lose(
                "unevaluatedProperties" if "unevaluatedProperties" in schema else "unevaluatedItems", checkable=False
            )
            return
        for key, plain in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
            if key in schema and plain not in rewritten:
                rewritten[plain] = self.rewrite(schema[key])


def _exactly(chosen: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
    return {"required": list(chosen), "properties": {name: False for name in optional if name not in chosen}}


def _any_of(options: list[Any]) -> Schema:
    return {"anyOf": options} if options else False


def has_pattern(document: Document, schemas: Sequence[Schema]) -> bool:
    """Whether one of these, or what it refers to, has a regular expression."""
    stack, seen = list[Any](schemas), set[str]()
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += item
        elif isinstance(item, dict):
            if "pattern" in item or "patternProperties" in item:
                return True
            stack += [value for key, value in item.items() if key != "enum"]
            name = item.get("$ref")
            if isinstance(name, str) and name not in seen:
                seen.add(name)
                stack.append(document.target(name))
    return False


def _looks_around(pattern: str) -> bool:
    """Whether a pattern has what automata cannot do: look-around, or a reference to a group."""
    return re.search(r"\(\?(?:[=!]|<[=!])|\\[1-9k]|\(\?P=", pattern.replace("\\\\", "")) is not None


def _pattern_of(limits: dict[str, Any]) -> str | None:
    """The pattern of names: stated, or made of their lengths."""
    if set(limits) == {"pattern"}:
        return str(limits["pattern"])
    if set(limits) <= {"minLength", "maxLength"}:
        return rf"^[\s\S]{{{limits.get('minLength', 0)},{limits.get('maxLength', '')}}}$"
    return None


def _unwritable(value: Any) -> bool:
    if isinstance(value, str):
        return not _UNWRITABLE.isdisjoint(value)
    if isinstance(value, dict):
        return any(map(_unwritable, value.values()))
    return isinstance(value, list | tuple) and any(map(_unwritable, value))
