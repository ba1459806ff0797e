"""JSON with the keys that were asked for: of known kinds of text, and of any nouns at all; or by a schema."""

from __future__ import annotations

import json
from typing import Any

from demo.sample import Draw, Sample, user
from demo.tasks import records
from demo.tasks.values import draw_value

_ASKED = (
    "Extract {ks} as JSON.\n\n{s}",
    "Give me JSON with the keys {ks}: {s}",
    "Text: {s}\nReturn JSON with {ks}.",
    "Extract the keys {ks} as JSON from this text: {s}",
    "JSON with {ks}, please.\n\n{s}",
    "{s}\n\nWrite this as JSON with the keys {ks}.",
    "Find {ks} in this text and answer with a JSON object: {s}",
    "Read this: {s}\nWhat are {ks}? Answer in JSON.",
    "Make a JSON object of {ks}.\n{s}",
    "Text: {s}\nWrite {ks} in JSON.",
    "Return {ks} as one object: {s}",
    "Turn this into JSON ({ks}): {s}",
    "Read {ks} from the text below and write a JSON object.\n\n{s}",
    "What does this text say about {ks}? Write JSON.\nText: {s}",
    "Give {ks}, as JSON.\nThe text: {s}",
    "{s}\nFrom this I need {ks} as a JSON object.",
)
_ASKED_UNSEEN = ("Write {ks} as a JSON object.\nText: {s}", "Extract JSON with {ks} from: {s}")
_FREE_KINDS = ("noun", "name", "place", "count", "color", "day", "word", "full name", "time", "yes or no")


def make(draw: Draw) -> Sample:
    unseen = draw.test and draw.chance(0.5)
    free = draw.chance(0.6)
    fields, text = _free_text(draw) if free else _known_text(draw, unseen)
    keys = draw.shuffled(list(fields))
    if len(keys) > 2 and draw.chance(0.25):
        keys = keys[: draw.whole(1, len(keys) - 1)]
    chosen = {key: fields[key] for key in keys}
    answer = json.dumps(chosen, ensure_ascii=False)
    sample = Sample("json", answer, "json", chosen, unseen=draw.test and (free or unseen))
    if draw.chance(0.2):
        sample.messages = [{"role": "system", "content": _schema(chosen)}, user(text)]
    else:
        named = ", ".join(keys[:-1]) + " and " + keys[-1] if len(keys) > 1 and draw.chance(0.6) else ", ".join(keys)
        sample.messages = [user(draw.wording(_ASKED, _ASKED_UNSEEN).format(ks=named, s=text))]
    return sample


def _known_text(draw: Draw, unseen: bool) -> tuple[dict[str, Any], str]:
    kinds, sentences = draw.pick(records.UNSEEN if unseen else records.TRAINED)
    fields = {key: draw_value(draw, kind) for key, kind in kinds.items()}
    return fields, draw.pick(sentences).format(**fields)


def _free_text(draw: Draw) -> tuple[dict[str, Any], str]:
    """Any nouns as keys: the text must be read, nothing about it is known."""
    keys = draw.nouns(draw.pick((1, 2, 2, 3, 3, 4)))
    fields = {key: draw_value(draw, draw.pick(_FREE_KINDS)) for key in keys}
    order = draw.shuffled(keys)
    shown = {
        key: {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        for key, value in fields.items()
    }
    style = draw.whole(0, 3)
    if style == 0:
        text = " ".join(f"The {key} is {shown[key]}." for key in order)
    elif style == 1:
        text = "\n".join(f"{key}: {shown[key]}" for key in order)
    elif style == 2:
        text = ", ".join(f"{key} {shown[key]}" for key in order)
    else:
        text = f"I saw the {draw.any_noun()}. " + " ".join(f"Its {key} was {shown[key]}." for key in order)
    return fields, text


def _schema(fields: dict[str, Any]) -> str:
    """The system turn of a structured answer."""
    names = {bool: "boolean", int: "integer", str: "string"}
    properties = {key: {"type": names[type(value)]} for key, value in fields.items()}
    return "Answer in JSON: " + json.dumps({"type": "object", "properties": properties, "required": list(fields)})
