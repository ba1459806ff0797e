"""haystack's OpenAIChatGenerator."""

import json

import openai
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret
from scenarios import ENDLESS, EXTRACT, FORMAT, KEY, MODEL, QUESTION, TOOL, V1, WEATHER, error_of, report

generator = OpenAIChatGenerator(
    api_key=Secret.from_token(KEY), model=MODEL, api_base_url=V1, max_retries=0, tools_strict=True
)
STRICT = TOOL | {"parameters": TOOL["parameters"] | {"additionalProperties": False}}
WEATHER_TOOL = Tool(**STRICT, function=lambda city: f"22 degrees in {city}")


class LeftError(Exception):
    """The client has left."""


def ask(text, heard=None, tools=None, **kwargs):
    messages = [ChatMessage.from_user(text)]
    return generator.run(messages, streaming_callback=heard, tools=tools, generation_kwargs=kwargs)["replies"][0]


def chat():
    return ask(QUESTION).text


def stream():
    pieces = []
    ask(QUESTION, heard=lambda chunk: pieces.append(chunk.content))
    return pieces


def tools():
    return ask(WEATHER, tools=[WEATHER_TOOL], tool_choice="required").tool_calls[0].arguments


def schema():
    return json.loads(ask(EXTRACT, response_format=FORMAT).text)


def tools_with_schema():
    answer = ask(WEATHER, tools=[WEATHER_TOOL], response_format=FORMAT)
    return answer.tool_calls[0].arguments if answer.tool_calls else json.loads(answer.text)


def error():
    return error_of(lambda: ask(QUESTION, temperature=-1), openai.BadRequestError)


def cancel():
    def leave(_chunk):
        raise LeftError

    try:
        ask(QUESTION, heard=leave, extra_body=ENDLESS)
    except LeftError:
        return 1
    return 0


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
