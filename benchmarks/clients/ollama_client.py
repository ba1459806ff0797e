"""ollama, Ollama's package for Python, at /api. A form beside tools is taken; there is no field that forces a call."""

import json

import ollama
from scenarios import ADDRESS, ASKED, ASKED_PERSON, ASKED_WEATHER, FUNCTION, MODEL, SCHEMA, error_of, report

client = ollama.Client(host=ADDRESS)


def chat():
    return client.chat(MODEL, ASKED).message.content


def stream():
    return [part.message.content for part in client.chat(MODEL, ASKED, stream=True)]


def tools():
    calls = client.chat(MODEL, ASKED_WEATHER, tools=[FUNCTION]).message.tool_calls
    return dict(calls[0].function.arguments) if calls else None


def schema():
    return json.loads(client.chat(MODEL, ASKED_PERSON, format=SCHEMA).message.content)


def tools_with_schema():
    answer = client.chat(MODEL, ASKED_WEATHER, tools=[FUNCTION], format=SCHEMA).message
    return dict(answer.tool_calls[0].function.arguments) if answer.tool_calls else json.loads(answer.content)


def error():
    return error_of(lambda: client.chat(MODEL, ASKED, options={"temperature": -1}), ollama.ResponseError)


def cancel():
    parts = client.chat(MODEL, ASKED, stream=True, options={"num_predict": 30_000, "ignore_eos": True})
    next(parts)
    parts.close()
    return 1


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
