"""anthropic, Anthropic's package for Python, at /v1/messages."""

import json

import anthropic
from scenarios import ADDRESS, ASKED, ASKED_PERSON, ASKED_WEATHER, ENDLESS, KEY, MODEL, SCHEMA, TOOL, error_of, report

client = anthropic.Anthropic(base_url=ADDRESS, api_key=KEY, max_retries=0)
common = {"model": MODEL, "max_tokens": 200}
FORM = {"format": {"type": "json_schema", "schema": SCHEMA}}
TOOLS = [{"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}]


def chat():
    return client.messages.create(messages=ASKED, **common).content[0].text


def stream():
    with client.messages.stream(messages=ASKED, **common) as events:
        return list(events.text_stream)


def tools():
    answer = client.messages.create(messages=ASKED_WEATHER, tools=TOOLS, tool_choice={"type": "any"}, **common)
    return answer.content[0].input


def schema():
    return json.loads(client.messages.create(messages=ASKED_PERSON, output_config=FORM, **common).content[0].text)


def tools_with_schema():
    answer = client.messages.create(messages=ASKED_WEATHER, tools=TOOLS, output_config=FORM, **common).content[0]
    return answer.input if answer.type == "tool_use" else json.loads(answer.text)


def error():
    ask = {"messages": ASKED, "extra_body": {"temperature": -1}}
    return error_of(lambda: client.messages.create(**ask, **common), anthropic.BadRequestError)


def cancel():
    endless = common | {"max_tokens": 30000}
    with client.messages.stream(messages=ASKED, extra_body=ENDLESS, **endless) as events:
        next(iter(events.text_stream))
    return 1


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
