"""llm, a command line and a package for many models: as a model of its extra-openai-models.yaml."""

import json
import os
import tempfile
from pathlib import Path

from scenarios import EXTRACT, KEY, MODEL, QUESTION, SCHEMA, V1, WEATHER, error_of, report

home = tempfile.TemporaryDirectory()
os.environ["LLM_USER_PATH"] = home.name
ABLE = {"supports_tools": True, "supports_schema": True}
LISTED = [{"model_id": "local", "model_name": MODEL, "api_base": V1, "api_key_name": "none"} | ABLE]
Path(home.name, "extra-openai-models.yaml").write_text(json.dumps(LISTED), encoding="utf-8")  # JSON is YAML
import llm  # noqa: E402 (it reads the folder)

model = llm.get_model("local")
called = []


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    called.append({"city": city})
    return "22 degrees and sunny"


def chat():
    return model.prompt(QUESTION, stream=False, key=KEY).text()


def stream():
    return list(model.prompt(QUESTION, key=KEY))


def tools():
    called.clear()
    model.chain(WEATHER, tools=[get_weather], key=KEY, stream=False).text()
    return called[0] if called else None


def schema():
    return json.loads(model.prompt(EXTRACT, schema=SCHEMA, stream=False, key=KEY).text())


def tools_with_schema():
    called.clear()
    answer = model.chain(WEATHER, tools=[get_weather], schema=SCHEMA, key=KEY, stream=False).text()
    return called[0] if called else json.loads(answer)


def error():
    return error_of(lambda: model.prompt(QUESTION, schema={"type": 5}, key=KEY).text(), Exception)


def cancel():
    endless = {"logit_bias": {"7": -100}, "max_tokens": 30_000}  # without the token that ends an answer
    pieces = iter(model.prompt(QUESTION, key=KEY, **endless))
    next(pieces)
    pieces.close()
    return 1


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
