"""The forms that an answer can be bound to, as OpenAI's, vLLM's, SGLang's, llama.cpp's and TGI's clients ask for them.

All of them come down to four: a JSON schema, a regular expression, a Lark grammar, a choice. What asks for something
else, such as a grammar in GBNF, is refused by its name. Knows no HTTP.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from edge_lfm.api import MAX_TRIES, csv_grammar, table_grammar, xml_grammar
from edge_lfm.server.failures import RequestError
from edge_lfm.server.fields import Body, Nested

Json = dict[str, Any]
_GBNF_RULE = re.compile(r"^\s*[\w-]+\s*::=", re.MULTILINE)


_UNSAID: Any = None
"""Of what a schema does not say. Empty lists and dicts in its place made one of 20,000 properties take 240 ms."""


class Schema(Struct, gc=False):
    """A JSON schema, as far as its own types go: what is none fails here, with its place, and nowhere deeper."""

    type: str | list[str] | None = None
    properties: dict[str, Schema | bool] = _UNSAID
    required: list[str] = _UNSAID
    enum: list[Any] = _UNSAID
    items: Schema | bool | list[Schema | bool] = True
    prefix_items: list[Schema | bool] = field(default=_UNSAID, name="prefixItems")
    any_of: list[Schema | bool] = field(default=_UNSAID, name="anyOf")
    one_of: list[Schema | bool] = field(default=_UNSAID, name="oneOf")
    all_of: list[Schema | bool] = field(default=_UNSAID, name="allOf")
    negated: Schema | bool = field(default=True, name="not")
    condition: Schema | bool = field(default=True, name="if")
    then: Schema | bool = True
    otherwise: Schema | bool = field(default=True, name="else")
    contains: Schema | bool = True
    property_names: Schema | bool = field(default=True, name="propertyNames")
    additional: Schema | bool = field(default=True, name="additionalProperties")
    unevaluated: Schema | bool = field(default=True, name="unevaluatedProperties")
    by_pattern: dict[str, Schema | bool] = field(default=_UNSAID, name="patternProperties")
    dependent_required: dict[str, list[str]] = field(default=_UNSAID, name="dependentRequired")
    dependent: dict[str, Schema | bool] = field(default=_UNSAID, name="dependentSchemas")
    definitions: dict[str, Schema | bool] = _UNSAID
    defs: dict[str, Schema | bool] = field(default=_UNSAID, name="$defs")
    reference: str = field(default="", name="$ref")
    pattern: str = ""
    min_length: int | float = field(default=0, name="minLength")
    max_length: int | float = field(default=0, name="maxLength")
    min_items: int | float = field(default=0, name="minItems")
    max_items: int | float = field(default=0, name="maxItems")
    minimum: int | float = 0
    maximum: int | float = 0


class JsonSchema(Nested):
    """OpenAI's wrapping of a schema."""

    schema: Json | bool | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class Format(Nested, kw_only=True):
    """`response_format` and `text.format`: OpenAI's types, and regex, grammar, choice, csv, table and xml beside them.

    schema: of json_schema without its wrapping (Responses), or of json_object (llama.cpp). value: TGI's name for it.
    soft: how often a JSON schema is asked for without binding the answer.
    """

    type: str = "text"
    json_schema: JsonSchema | None = None
    schema: Json | bool | None = None
    value: Json | str | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    regex: str | None = None
    grammar: str | None = None
    choices: list[str] | None = None
    columns: dict[str, str | list[str]] | None = None
    tree: Json | None = None
    soft: Annotated[int, Meta(ge=1, le=MAX_TRIES)] | None = None

    def options(self, where: str) -> Json:
        """Arguments of `Model.prepare`."""
        match self.type:
            case "text":
                return {}
            case "json_object" | "json_schema" | "json":
                return self._json(where)
            case "regex":
                return {"regex": self._needed("regex", where, self.regex, self.value)}
            case "grammar":
                return {"lark": lark(self._needed("grammar", where, self.grammar), where)}
            case "choice":
                return {"choices": self._needed("choices", where, self.choices)}
            case "csv":
                return {"lark": csv_grammar(self.columns or {})}
            case "table":
                return {"lark": table_grammar(self.columns or {})}
            case "xml":
                return {"lark": xml_grammar(self.tree or {})}
        raise RequestError(f"{where} of type {self.type!r:.40} is not supported", where)

    def _json(self, where: str) -> Json:
        given = [self.json_schema.schema if self.json_schema else None, self.schema, self.value]
        schemas = [schema for schema in given if schema is not None]
        if not schemas and self.type == "json_object":
            return {"schema": True}
        if len(schemas) != 1:
            raise RequestError(f"{where} has {'no schema' if not schemas else 'several schemas'}", where)
        return {"schema": json_schema(schemas[0], where)}

    @staticmethod
    def _needed(name: str, where: str, *given: Any) -> Any:
        value_given = next((value for value in given if value is not None), None)
        if value_given is None or not isinstance(value_given, list if name == "choices" else str):
            raise RequestError(f"{where} has no {name}", where)
        return value_given


class Structured(Nested, kw_only=True):
    """vLLM's `structured_outputs`; the fields of its `guided_*` have the same names."""

    json: Json | str | bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None

    def options(self, before: str) -> Json:
        """Arguments of `Model.prepare`. `before`: what the names of the fields begin with."""
        options: Json = {}
        if self.json is not None:
            options["schema"] = json_schema(self.json, f"{before}json")
        if self.regex is not None:
            options["regex"] = self.regex
        if self.choice is not None:
            options["choices"] = self.choice
        if self.grammar is not None:
            options["lark"] = lark(self.grammar, f"{before}grammar")
        if self.json_object:
            options.setdefault("schema", True)
        return options


class Bound(Body, kw_only=True):
    """The fields of all interfaces that bind an answer, under every server's name for them."""

    response_format: Format | None = None
    structured_outputs: Structured | None = None
    guided_json: Json | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_json_object: bool | None = None
    json_schema: Json | str | None = None
    grammar: Format | str | None = None
    regex: str | None = None
    ebnf: str | None = None

    def form(self) -> Json:
        """Arguments of `Model.prepare` that bind the answer; none or one.

        Raises:
            RequestError: there are several, or one is none of ours.
        """
        guided = Structured(
            json=self.guided_json,
            regex=self.guided_regex,
            choice=self.guided_choice,
            grammar=self.guided_grammar,
            json_object=self.guided_json_object,
        )
        forms: dict[str, Json] = {"guided_*": guided.options("guided_")}
        if self.response_format is not None:
            forms["response_format"] = self.response_format.options("response_format")
        if self.structured_outputs is not None:
            forms["structured_outputs"] = self.structured_outputs.options("structured_outputs.")
        if self.json_schema is not None:
            forms["json_schema"] = {"schema": json_schema(self.json_schema, "json_schema")}
        if self.regex is not None:
            forms["regex"] = {"regex": self.regex}
        if isinstance(self.grammar, Format):
            forms["grammar"] = self.grammar.options("grammar")
        for name, text in (("grammar", self.grammar), ("ebnf", self.ebnf)):
            if isinstance(text, str):
                forms[name] = {"lark": lark(text, name)}
        given = {name: options for name, options in forms.items() if options}
        if len(given) > 1 or any(len(options) > 1 for options in given.values()):
            raise RequestError(f"{' and '.join(given)} bind the answer in several ways; give one", next(iter(given)))
        return next(iter(given.values()), {})


def json_schema(value: Any, where: str) -> Json | bool:
    """A schema, from JSON text too, if its keywords have the types that they must have.

    Raises:
        RequestError: it is no schema.
    """
    try:
        schema = msgspec.json.decode(value) if isinstance(value, str) else value
        msgspec.convert(schema, Schema | bool)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise RequestError(f"{where} has no JSON schema: {error!s:.300}", where) from None
    return schema  # type: ignore[no-any-return]


def lark(text: str, where: str) -> str:
    """A grammar in Lark; what is written in GBNF or EBNF is told from it by its sign for a rule.

    Raises:
        RequestError: it is another language.
    """
    if _GBNF_RULE.search(text):
        raise RequestError(f"{where} is in GBNF or EBNF, which is not supported; write it in Lark", where)
    return text
