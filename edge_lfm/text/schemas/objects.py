"""The arguments of a call from the schema of their object: a union of plain forms, each a list of properties.

A form says which properties there are, which of them must be, and what further ones may hold. Works on what `rewriting`
gives: references, allOf, anyOf, enum and the plain keywords of objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from edge_lfm.text.schemas.document import Schema
from edge_lfm.text.schemas.rewriting import Bound

MAX_FORMS, MAX_DEPTH = 256, 30


class NoFormsError(Exception):
    """The arguments are no small union of plain forms; its argument says why."""


@dataclass(frozen=True)
class ObjectForm:
    """properties: in order; False: it must not be there. others: of further properties; None if nothing is said."""

    properties: dict[str, Schema] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    others: Schema | None = None

    @property
    def given(self) -> dict[str, Schema]:
        """The properties that may be there."""
        return {name: schema for name, schema in self.properties.items() if schema is not False}

    def both(self, other: ObjectForm) -> ObjectForm | None:
        """What fits this form and another; None if nothing does."""
        names = [*self.properties, *(name for name in other.properties if name not in self.properties)]
        properties = {name: _both(self._of(name), other._of(name)) for name in names}
        required = self.required | other.required
        for name in sorted(required - properties.keys() - {FREE}):
            properties[name] = _both(self._of(name), other._of(name))
        if any(properties.get(name) is False for name in required):
            return None
        if self.others is None or other.others is None:
            return ObjectForm(properties, required, other.others if self.others is None else self.others)
        return ObjectForm(properties, required, _both(self.others, other.others))

    def _of(self, name: str) -> Schema:
        return self.properties.get(name, True if self.others is None else self.others)


def object_forms(bound: Bound) -> list[ObjectForm]:
    """The forms of the objects that a schema accepts.

    Raises:
        NoFormsError: there are too many, or they cannot be said as forms.
    """
    forms: list[ObjectForm] = []
    for form in _forms(bound, bound.root, 0):
        missing = {name: form._of(name) for name in sorted(form.required) if name not in (*form.properties, FREE)}
        whole = replace(form, properties={**form.properties, **missing})
        if whole not in forms and not any(whole.properties.get(name) is False for name in whole.required):
            forms.append(whole)
        if len(forms) > MAX_FORMS:
            raise NoFormsError("it has too many alternatives")
    return forms


def _forms(bound: Bound, schema: Schema, depth: int) -> Iterator[ObjectForm]:
    if schema is False:
        return
    if schema is True:
        yield ObjectForm()
        return
    if depth > MAX_DEPTH:
        raise NoFormsError("it refers to itself")
    if "object" not in schema.get("type", ("object",)):
        return
    if "patternProperties" in schema:
        raise NoFormsError("patternProperties")
    forms: list[ObjectForm] = [
        ObjectForm(
            schema.get("properties", {}), frozenset(schema.get("required", ())), schema.get("additionalProperties")
        )
    ]
    if "enum" in schema:
        forms = _joined(forms, [_of_value(value) for value in schema["enum"] if isinstance(value, dict)])
    if "$ref" in schema:
        target = bound.definitions[schema["$ref"].rpartition("/")[2]]
        forms = _joined(forms, list(_forms(bound, target, depth + 1)))
    for part in schema.get("allOf", ()):
        forms = _joined(forms, list(_forms(bound, part, depth + 1)))
    if "anyOf" in schema:
        forms = _joined(forms, [form for option in schema["anyOf"] for form in _forms(bound, option, depth + 1)])
    yield from _counted(schema, forms)


def _joined(some: list[ObjectForm], others: list[ObjectForm]) -> list[ObjectForm]:
    if len(some) * len(others) > MAX_FORMS:
        raise NoFormsError("it has too many alternatives")
    return [both for one in some for other in others if (both := one.both(other)) is not None]


def _counted(schema: dict[str, Any], forms: list[ObjectForm]) -> Iterator[ObjectForm]:
    """minProperties and maxProperties, where the rewriting has left them: no more than one further property."""
    low, high = schema.get("minProperties", 0), schema.get("maxProperties")
    for form in forms:
        if high is not None and (form.others not in (None, False) or len(form.given) > high):
            raise NoFormsError("maxProperties")
        if low > len(form.required):
            optional = [name for name in form.given if name not in form.required]
            if low > len(form.required) + 1:
                raise NoFormsError("minProperties")
            yield from (replace(form, required=form.required | {name}) for name in optional)
            if form.others not in (False, None) or not optional:
                yield replace(form, required=form.required | {FREE})
        else:
            yield form


FREE = "\0"
"""Stands among the required names for one further property, whatever its name."""


def _of_value(value: dict[str, Any]) -> ObjectForm:
    return ObjectForm({k: {"enum": [v]} for k, v in value.items()}, frozenset(value), others=False)


def _both(one: Schema, other: Schema) -> Schema:
    if one is False or other is False:
        return False
    if one is True or one == other:
        return other
    return one if other is True else {"allOf": [one, other]}
