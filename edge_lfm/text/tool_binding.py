"""What of a tool's parameters a grammar can hold: exactly, or all but some keywords, which are checked afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edge_lfm.errors import GrammarError
from edge_lfm.text.schemas.document import Document, Schema, type_of
from edge_lfm.text.schemas.objects import NoFormsError, ObjectForm, object_forms
from edge_lfm.text.schemas.rewriting import Bound, Loss, bind, has_pattern
from edge_lfm.text.schemas.values import Checker
from edge_lfm.text.tools import Tool

Takes = Callable[[Any], bool | None]
"""Whether a parameter takes a value; None: that is not found out."""


@dataclass(frozen=True)
class BoundTool:
    """A tool for a grammar. forms: of its arguments. lost: what of its schema the forms do not hold."""

    tool: Tool
    bound: Bound
    forms: tuple[ObjectForm, ...]
    lost: tuple[Loss, ...] = ()

    @property
    def name(self) -> str:
        return self.tool.name

    @property
    def parameters(self) -> dict[str, Takes]:
        """The parameters of its forms, in order."""
        names = dict.fromkeys(name for form in self.forms for name in form.given)
        return {name: self._takes([form.given[name] for form in self.forms if name in form.given]) for name in names}

    def _takes(self, schemas: Sequence[Schema]) -> Takes:
        documents = [Document(schema, self.bound.definitions) for schema in schemas]

        def takes(value: Any) -> bool | None:
            verdicts = [Checker(document).accepts(document.root, value) for document in documents]
            return True in verdicts or (None if None in verdicts else False)

        return takes

    def loosened(self, why: str) -> BoundTool:
        """The same with any JSON for every argument, for a schema that the engine cannot compile.

        Raises:
            GrammarError: the tool is strict.
        """
        forms = tuple(replace(form, properties=dict.fromkeys(form.given, True), others=None) for form in self.forms)
        lost = Loss(why, patterns=has_pattern(self.bound.document, [self.bound.document.root]))
        return _checked(BoundTool(self.tool, self.bound, forms[:1], (*self.lost, lost)))

    def check(self, tried: bool) -> Callable[[Any], str | None]:
        """What is wrong with the arguments of a call, or None. tried: use Python's `re` on the schema's patterns.

        Raises:
            GrammarError: that cannot be found out.
        """
        if any(not loss.checkable or (loss.patterns and not tried) for loss in self.lost):
            raise self._refusal("can be neither bound nor checked", "simplify its schema, or leave the tool out")
        document = self.bound.document
        return lambda value: Checker(document, "tried" if tried else "bound").problem(document.root, value)

    def _refusal(self, problem: str, hint: str) -> GrammarError:
        keywords = ", ".join(dict.fromkeys(loss.keyword for loss in self.lost))
        return GrammarError(f"the parameters of the tool {self.name} {problem}: {keywords:.200}", hint=hint)


def plain_parameters(tool: Tool) -> dict[str, Takes]:
    """The parameters that stand at the top of a tool's schema, by nothing but their types."""
    properties = tool.schema.get("properties")
    return {name: _of_types(schema) for name, schema in properties.items()} if isinstance(properties, dict) else {}


def _of_types(schema: Any) -> Takes:
    types = schema.get("type") if isinstance(schema, dict) else None
    kinds = {kind for kind in (types if isinstance(types, list) else [types]) if isinstance(kind, str)}
    kinds |= {"integer"} if "number" in kinds else set()
    return lambda value: type_of(value) in kinds if kinds else None


def bind_tool(tool: Tool) -> BoundTool:
    """The forms of a tool's arguments.

    Raises:
        GrammarError: its schema is none, nothing fits it, or it is strict and cannot be held exactly.
    """
    try:
        bound = bind(tool.schema)
    except GrammarError as error:
        raise GrammarError(f"the tool {tool.name}: {error.message}", hint=error.hint) from None
    lost = bound.lost
    try:
        forms = object_forms(bound)
    except NoFormsError as error:
        lost = (*lost, Loss(str(error), has_pattern(bound.document, [bound.document.root])))
        forms = [_plain_form(bound)]
    if not forms:
        raise GrammarError(f"nothing fits the parameters of the tool {tool.name}", hint="mend its schema")
    return _checked(BoundTool(tool, bound, tuple(forms), lost))


def _checked(tool: BoundTool) -> BoundTool:
    if tool.lost and tool.tool.strict:
        raise tool._refusal("cannot be bound exactly", "leave out strict, and its calls are checked afterwards")
    return tool


def _plain_form(bound: Bound) -> ObjectForm:
    """The properties that stand at the top, for a schema whose other parts say more."""
    root = bound.root if isinstance(bound.root, dict) else {}
    properties = root.get("properties", {})
    return ObjectForm(properties, frozenset(root.get("required", ())) & properties.keys())
