"""A JSON schema in one spelling: references by name, the drafts' older keywords as 2020-12's, annotations left out.

Knows what keywords mean and where schemas stand inside schemas; does not know what a grammar can bind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_lfm.errors import GrammarError, MissingExtraError

Schema = bool | dict[str, Any]
MAX_DEPTH, MAX_SCHEMAS = 100, 50_000
_EXACT = 1 << 53
_LONE = re.compile("[\ud800-\udfff]")

SCHEMAS = ("not", "if", "then", "else", "additionalProperties", "propertyNames", "items", "contains")
SCHEMAS_OF_PARTS = ("unevaluatedProperties", "unevaluatedItems")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
MAPS = ("properties", "patternProperties", "dependentSchemas")
COUNTS = (
    "minProperties",
    "maxProperties",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "minContains",
    "maxContains",
)
NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
KEYWORDS_OF = {
    "object": {"properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties",
               "propertyNames", "dependentRequired", "dependentSchemas", "unevaluatedProperties"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "contains", "minContains", "maxContains", "uniqueItems",
              "unevaluatedItems"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": set(NUMBERS),
}  # fmt: skip
"""What each keyword speaks of; of values of other types it says nothing."""


@dataclass
class Document:
    """root: the schema; definitions: what its references name, {"$ref": name}."""

    root: Schema
    definitions: dict[str, Schema] = field(default_factory=dict)

    def target(self, reference: str) -> Schema:
        return self.definitions[reference.rpartition("/")[2]]


def read_schema(schema: Any) -> Document:
    """A schema, with everything that it refers to.

    Raises:
        GrammarError: it is none, refers to what it does not hold, is too large, or holds a number beyond 2**53.
        MissingExtraError: the package `referencing` is not installed.
    """
    try:
        import referencing.jsonschema as drafts
        from referencing import Registry
    except ImportError:
        raise MissingExtraError("grammars need referencing", extra="grammar") from None
    draft = schema.get("$schema") if isinstance(schema, Mapping) else None
    _check_size(schema)
    known = (
        drafts.specification_with(draft, default=drafts.DRAFT202012) if isinstance(draft, str) else drafts.DRAFT202012
    )
    resource = known.create_resource(schema)
    reader = _Reader(known, Registry().with_resource("", resource).resolver_with_root(resource))
    return Document(reader.read(schema, reader.resolver), reader.definitions)


def _check_size(schema: Any) -> None:
    """Refuse what is too deep, too large, or what a float64 or UTF-8 cannot carry."""
    stack, count = [(schema, 1)], 0
    while stack:
        item, depth = stack.pop()
        count += isinstance(item, Mapping)
        if depth > MAX_DEPTH or count > MAX_SCHEMAS:
            raise GrammarError(
                "the schema is too deep or too large", hint=f"at most {MAX_DEPTH} levels, {MAX_SCHEMAS} parts"
            )
        if isinstance(item, float) and not math.isfinite(item):
            raise GrammarError("the schema is not JSON: it holds NaN or infinity", hint="give a JSON schema")
        if isinstance(item, int) and abs(item) > _EXACT:
            raise GrammarError("the schema has an integer beyond 2**53", hint="write it as a pattern of a string")
        if isinstance(item, Mapping):
            stack += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list | tuple):
            stack += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            if _LONE.search(item):
                raise GrammarError("the schema holds a lone surrogate", hint="send well-formed UTF-8")
        elif not isinstance(item, int | float | bool | None):
            raise GrammarError(f"the schema is not JSON: it holds a {type(item).__name__}", hint="give a JSON schema")


class _Reader:
    def __init__(self, known: Any, resolver: Any) -> None:
        self._known, self.resolver = known, resolver
        self.definitions: dict[str, Schema] = {}
        self._names: dict[int, str] = {}

    def read(self, schema: Any, resolver: Any) -> Schema:
        """One schema, and those inside it."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise GrammarError(f"{schema!r:.60} stands where a schema should", hint="give a JSON schema")
        if "$id" in schema or "id" in schema:
            resolver = resolver.in_subresource(self._known.create_resource(schema))
        document: dict[str, Any] = {}
        for key, value in schema.items():
            read = getattr(self, f"_read_{key.lstrip('$')}", None) if key in _SPECIAL else None
            if read is not None:
                read(document, value, resolver)
            elif key in SCHEMAS or key in SCHEMAS_OF_PARTS:
                document[key] = self.read(value, resolver)
            elif key in LISTS:
                document[key] = [self.read(item, resolver) for item in _need(value, list, key)]
            elif key in MAPS:
                document[key] = {str(k): self.read(v, resolver) for k, v in _need(value, Mapping, key).items()}
            elif key in COUNTS:
                document[key] = _count(value, key)
            elif key in NUMBERS:
                _number(document, key, value, schema)
        if "additionalItems" in schema and "prefixItems" in document and isinstance(schema.get("items"), list):
            document["items"] = self.read(schema["additionalItems"], resolver)
        return document

    def _read_ref(self, document: dict[str, Any], value: Any, resolver: Any) -> None:
        """The target gets a name, by which all references to it go."""
        import referencing.exceptions

        try:
            target = resolver.lookup(_need(value, str, "$ref"))
        except (referencing.exceptions.Unresolvable, ValueError):
            raise GrammarError(
                f"the schema refers to {value!r:.80}, which it does not hold", hint="put it in $defs"
            ) from None
        name = self._names.get(id(target.contents))
        if name is None:
            name = self._names[id(target.contents)] = f"d{len(self._names)}"
            self.definitions[name] = True  # a place, while what refers to itself is read
            self.definitions[name] = self.read(target.contents, target.resolver)
        document["$ref"] = name

    def _read_dynamicRef(self, document: dict[str, Any], value: Any, resolver: Any) -> None:  # noqa: N802
        raise GrammarError("$dynamicRef and $recursiveRef cannot be bound", hint="use $ref")

    _read_recursiveRef = _read_dynamicRef  # noqa: N815

    def _read_type(self, document: dict[str, Any], value: Any, resolver: Any) -> None:
        types = [value] if isinstance(value, str) else _need(value, list, "type")
        if not all(t in TYPES for t in types) or not types:
            raise GrammarError(f"{value!r:.60} is no type", hint=f"one of {', '.join(TYPES)}")
        document["type"] = [t for t in types if t != "integer" or "number" not in types]

    def _read_enum(self, document: dict[str, Any], value: Any, resolver: Any) -> None:
        if not _need(value, list, "enum"):
            raise GrammarError("an enum of the schema is empty", hint="give it a value")
        document["enum"] = (
            [v for v in document.get("enum", value) if any(same(v, w) for w in value)]
            if "enum" in document
            else list(value)
        )

    def _read_const(self, document: dict[str, Any], value: Any, resolver: Any) -> None:
        self._read_enum(document, [value], resolver)

    def _read_required(self, document: dict[str, Any], value: Any, resolver: Any) -> None:
        if isinstance(value, bool):  # draft 3 wrote it into the property
            return
        if not all(isinstance(key, str) for key in _need(value, list, "required")):
            raise GrammarError("required is no list of names", hint="give texts")
        document["required"] = list(dict.fromkeys(value))

    def _read_items(self, document: dict[str, Any], value: Any, resolver: Any) -> None:
        if isinstance(value, list):  # before 2020-12
            document["prefixItems"] = [self.read(item, resolver) for item in value]
        else:
            document["items"] = self.read(value, resolver)

    def _read_dependencies(self, document: dict[str, Any], value: Any, resolver: Any) -> None:
        """Before 2019-09: lists of names, or schemas."""
        for key, needed in _need(value, Mapping, "dependencies").items():
            if isinstance(needed, list):
                self._read_dependentRequired(document, {key: needed}, resolver)
            else:
                document.setdefault("dependentSchemas", {})[key] = self.read(needed, resolver)

    def _read_dependentRequired(self, document: dict[str, Any], value: Any, resolver: Any) -> None:  # noqa: N802
        for key, needed in _need(value, Mapping, "dependentRequired").items():
            if not all(isinstance(name, str) for name in _need(needed, list, "dependentRequired")):
                raise GrammarError("dependentRequired holds no lists of names", hint="give texts")
            document.setdefault("dependentRequired", {})[key] = list(needed)

    def _read_pattern(self, document: dict[str, Any], value: Any, resolver: Any) -> None:
        document["pattern"] = _need(value, str, "pattern")

    def _read_format(self, document: dict[str, Any], value: Any, resolver: Any) -> None:
        if value in FORMATS:  # others say nothing that must hold (JSON Schema 2020-12, validation, 7.2)
            document["format"] = value

    def _read_uniqueItems(self, document: dict[str, Any], value: Any, resolver: Any) -> None:  # noqa: N802
        if value is True:
            document["uniqueItems"] = True


FORMATS = frozenset(["date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"])
"""Those that the grammar engine binds."""
_SPECIAL = frozenset(
    ["$ref", "$dynamicRef", "$recursiveRef", "type", "enum", "const", "required", "items", "dependencies",
     "dependentRequired", "pattern", "format", "uniqueItems"]
)  # fmt: skip


def _need(value: Any, kind: Any, key: str) -> Any:
    if not isinstance(value, kind):
        raise GrammarError(f"{value!r:.40} cannot be the value of {key} in a schema", hint="give a JSON schema")
    return value


def _count(value: Any, key: str) -> int:
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and value == int(value)
    if not whole:
        raise GrammarError(f"{value!r:.40} cannot be the value of {key} in a schema", hint="give a whole number")
    return int(value)


def _number(document: dict[str, Any], key: str, value: Any, schema: Mapping[str, Any]) -> None:
    if isinstance(value, bool) and key.startswith("exclusive"):  # draft 4: the bound beside it is exclusive
        bound = "minimum" if key == "exclusiveMinimum" else "maximum"
        if value and bound in schema:
            document[key] = _need(schema[bound], int | float, bound)
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise GrammarError(f"{value!r:.40} cannot be the value of {key} in a schema", hint="give a number")
    document[key] = value


def type_of(value: Any) -> str:
    """The type of a JSON value; a number with no fraction is an integer."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list | tuple) else "object"


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal; 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
