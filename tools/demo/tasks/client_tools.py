"""Calls of tools that are listed as client libraries write them: the same conversations as of `tools`, with the keys
that a library puts around a schema (`additionalProperties`, `strict`, `$schema`, titles, descriptions) in its order.

A form is a product of many choices: the hash of what it writes says which split has it. Those of known libraries are
the test split's only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from demo.sample import Draw, Sample
from demo.tasks.tools import Json, Tool, conversation

_DRAFTS = ("http://json-schema.org/draft-07/schema#", "https://json-schema.org/draft/2020-12/schema")
_FUNCTION, _SCHEMA = ("name", "description", "parameters"), ("type", "properties", "required")
_PLAIN = "{text}"
_DESCRIPTIONS = (
    _PLAIN,
    _PLAIN,
    "{name}({typed}) -> str\n{text}",
    "{text}\n\nArgs:\n    {args}",
    "{text} Returns a string.",
)
_TITLES = ("{name}_args", "{name}Arguments", "{camel}", "{name}")
_OF_PROPERTY = (
    "",
    "{name}",
    "The {name}.",
    "The {name}",
    "Name of the {name}",
    "the {name}",
    "the {name} to use",
    "A {name}, as text",
)
_SAFE = {"minimum": -(2**53) + 1, "maximum": 2**53 - 1}
"""Whole numbers that JavaScript can hold, as zod writes them."""
_LIMITS: dict[str, tuple[Json, ...]] = {
    "string": ({"minLength": 1}, {"maxLength": 100}, {"minLength": 1, "maxLength": 40}, {}),
    "integer": ({"minimum": 0}, {"minimum": 1, "maximum": 1000}, {"format": "int64"}, _SAFE),
}


@dataclass(frozen=True)
class Form:
    """How a library writes its tools. `function`, `schema`, `property`: the keys of each object, in their order."""

    function: tuple[str, ...]
    schema: tuple[str, ...]
    property: tuple[str, ...]
    wrapped: bool = True
    description: str = _PLAIN
    title: str = _TITLES[0]
    of_property: str = _OF_PROPERTY[0]
    strict: bool = True
    additional: bool = False
    draft: str = _DRAFTS[0]
    limits: int = 0
    """Which of the limits, for the key `limit`."""

    def write(self, tool: Tool) -> Json:
        """A tool, as this library lists it."""
        camel = "".join(map(str.capitalize, tool.name.split("_")))
        words = {"name": tool.name, "camel": camel, "text": tool.description}
        words["typed"] = ", ".join(f"{name}: {_PYTHON[kind]}" for name, kind in tool.types.items())
        words["args"] = "\n    ".join(f"{name}: the {name}" for name in tool.types)
        values: Json = {
            "type": "object",
            "properties": {name: self._property(name, kind) for name, kind in tool.types.items()},
            "required": list(tool.types),
            "additionalProperties": self.additional,
            "$schema": self.draft,
            "title": self.title.format(**words),
            "description": tool.description,
        }
        whole: Json = {
            "name": tool.name,
            "description": self.description.format(**words),
            "parameters": {key: values[key] for key in self.schema},
            "strict": self.strict,
        }
        function = {key: whole[key] for key in self.function}
        return {"type": "function", "function": function} if self.wrapped else function

    def _property(self, name: str, kind: str) -> Json:
        values: dict[str, Json] = {
            "type": {"type": kind},
            "optional": {"anyOf": [{"type": kind}, {"type": "null"}]},
            "title": {"title": name.capitalize()},
            "description": {"description": self.of_property.format(name=name)},
            "limit": _LIMITS[kind][self.limits],
        }
        return {key: value for part in self.property for key, value in values[part].items()}


_PYTHON = {"string": "str", "integer": "int"}
_BARE = ("properties", "required", "type")
_CLOSED, _BARE_CLOSED = (*_SCHEMA, "additionalProperties"), (*_BARE, "additionalProperties")
_PYDANTIC = ("properties", "required", "title", "type")
_STRICT, _TOLD = (*_FUNCTION, "strict"), ("type", "description")
_KNOWN = (
    # openai-agents
    Form(_STRICT, (*_PYDANTIC, "additionalProperties"), ("title", "type")),
    # pydantic-ai
    Form(_STRICT, ("additionalProperties", *_BARE), ("type",)),
    # langchain, llm, haystack's decorator
    Form(_FUNCTION, _BARE, ("type",)),
    # langchain, bound strictly
    Form(_STRICT, _BARE_CLOSED, ("type",)),
    # AI SDK, of a zod schema
    Form(_FUNCTION, ("$schema", *_CLOSED), ("type", "limit"), limits=3),
    # opencode
    Form(_FUNCTION, ("$schema", *_SCHEMA), _TOLD, draft=_DRAFTS[1], of_property="The {name}"),
    # Claude Code
    Form(_FUNCTION, ("$schema", *_CLOSED), ("description", "type"), draft=_DRAFTS[1], of_property="The {name}"),
    # codex
    Form(_STRICT, _CLOSED, _TOLD, strict=False, of_property="The {name}."),
    # cline
    Form(_FUNCTION, _CLOSED, _TOLD, of_property="The {name}"),
    # ag2
    Form(_FUNCTION, _BARE_CLOSED, ("title", "type")),
    # autogen
    Form(_STRICT, _CLOSED, ("description", "title", "type"), of_property="{name}"),
    # autogen, not bound strictly
    Form(_STRICT, _CLOSED, ("description", "title", "type"), of_property="{name}", strict=False),
    # llama-index
    Form(_STRICT, _BARE_CLOSED, ("title", "type"), description=_DESCRIPTIONS[2], strict=False),
    # ollama, Continue
    Form(_FUNCTION, ("type", "required", "properties"), _TOLD, of_property="The {name}"),
    # smolagents
    Form(_FUNCTION, _SCHEMA, _TOLD, of_property="the {name}"),
    # the Model Context Protocol's SDK for Python
    Form(_FUNCTION, _PYDANTIC, ("title", "type"), title=_TITLES[1]),
)


def make(draw: Draw) -> Sample:
    return conversation(draw, "client tool", lambda: _form(draw).write)


def _form(draw: Draw) -> Form:
    if draw.test and draw.chance(0.5):
        return draw.pick(_KNOWN)
    while written(form := draw.of_split(lambda: _any_form(draw), written)) in _WRITTEN:
        pass
    return form


def written(form: Form) -> str:
    """All that tells a form from another: a tool with a parameter of each type."""
    return json.dumps(form.write(Tool("get_it", "Get it.", {"name": "name", "level": "count"}, (), {}, "")))


_WRITTEN = frozenset(map(written, _KNOWN))


def _any_form(draw: Draw) -> Form:
    return Form(
        function=_keys(draw, _FUNCTION, {"strict": 0.4}),
        schema=_keys(draw, _SCHEMA, {"additionalProperties": 0.6, "$schema": 0.2, "title": 0.25, "description": 0.1}),
        property=_keys(
            draw, ("optional" if draw.chance(0.05) else "type",), {"title": 0.35, "description": 0.4, "limit": 0.1}
        ),
        wrapped=draw.chance(0.8),
        description=draw.pick(_DESCRIPTIONS),
        title=draw.pick(_TITLES),
        of_property=draw.pick(_OF_PROPERTY),
        strict=draw.chance(0.7),
        additional=draw.chance(0.1),
        draft=draw.pick(_DRAFTS),
        limits=draw.whole(0, 3),
    )


def _keys(draw: Draw, always: tuple[str, ...], sometimes: dict[str, float]) -> tuple[str, ...]:
    """Half the time as most libraries have them, additions last; else in any order."""
    keys = [*always, *(key for key, p in sometimes.items() if draw.chance(p))]
    return tuple(keys if draw.chance(0.5) else draw.shuffled(keys))
