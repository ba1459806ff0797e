"""Lark rules in the making, as llguidance reads them: what the grammars of all forms of calls share."""

from __future__ import annotations

import json
import re
from typing import Any

from edge_lfm.text.schemas.document import Schema
from edge_lfm.text.schemas.json_style import JSON_STYLE
from edge_lfm.text.schemas.objects import FREE, ObjectForm
from edge_lfm.text.schemas.rewriting import Bound

_FREE_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"


class Rules:
    """Rules with names of their own. `lines`: those made so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._json: dict[str, str] = {}
        self._count = 0

    def rule(self, kind: str, body: str, lazy: bool = False) -> str:
        """Add a rule; gives its name, which begins with `kind`. lazy: it ends as early as it can."""
        name = f"{kind}{self._count}"
        self._count += 1
        self.lines.append(f"{name}{'[lazy]' if lazy else ''}: {body}")
        return name

    def json(self, schema: Schema, bound: Bound) -> str:
        """The rule of a JSON value; equal schemas share one, which holds the definitions that it reaches."""
        whole = bound.with_definitions(schema)
        source = json.dumps(whole if isinstance(whole, dict) else {})
        if source not in self._json:
            styled = json.dumps(json.loads(source) | {"x-guidance": JSON_STYLE})
            self._json[source] = self.rule("json", f"%json {styled}")
        return self._json[source]

    def free_name(self, form: ObjectForm) -> str:
        """The rule of a name that the schema allows and does not list."""
        taken = "|".join(re.escape(name) for name in form.properties if re.fullmatch(_FREE_NAME, name))
        return self.rule("NAME", f"/{_FREE_NAME}/" + (f" & ~/{taken}/" if taken else ""))

    def json_object(self, forms: tuple[ObjectForm, ...], bound: Bound) -> str:
        """The rule of a JSON object of one of these forms."""
        return " | ".join(self.json(_schema_of(form), bound) for form in forms)


def quoted(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)


def _schema_of(form: ObjectForm) -> Schema:
    required = sorted(form.required - {FREE})
    schema: dict[str, Any] = {"type": ["object"], "properties": form.properties, "required": required}
    if form.others is not None:
        schema["additionalProperties"] = form.others
    if FREE in form.required:  # llguidance counts where no listed property is optional; other forms have those
        schema["properties"] = {name: name in form.required and s for name, s in form.properties.items()}
        schema["minProperties"] = len(required) + 1
    return schema
