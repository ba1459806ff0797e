"""smolagents' OpenAIModel; its agents ask for a tool in each step."""

import json

import openai
from scenarios import ENDLESS, EXTRACT, FORMAT, KEY, MODEL, QUESTION, V1, WEATHER, error_of, report
from smolagents import ChatMessage, MessageRole, OpenAIModel, tool


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city.

    Args:
        city: the city
    """
    return f"22 degrees and sunny in {city}"


def said(text):
    return [ChatMessage(role=MessageRole.USER, content=[{"type": "text", "text": text}])]


def model(**more):
    return OpenAIModel(MODEL, api_base=V1, api_key=KEY, client_kwargs={"max_retries": 0}, retry=False, **more)


def chat():
    return model().generate(said(QUESTION)).content


def stream():
    return [part.content or "" for part in model().generate_stream(said(QUESTION))]


def tools():
    arguments = model().generate(said(WEATHER), tools_to_call_from=[get_weather]).tool_calls[0].function.arguments
    return json.loads(arguments) if isinstance(arguments, str) else arguments


def schema():
    return json.loads(model().generate(said(EXTRACT), response_format=FORMAT).content)


def tools_with_schema():
    ask = {"response_format": FORMAT, "tools_to_call_from": [get_weather], "tool_choice": "auto"}
    answer = model().generate(said(WEATHER), **ask)
    return json.loads(answer.tool_calls[0].function.arguments if answer.tool_calls else answer.content)


def error():
    return error_of(lambda: model().generate(said(QUESTION), temperature=-1), openai.BadRequestError)


def cancel():
    parts = model().generate_stream(said(QUESTION), extra_body=ENDLESS)
    next(parts)
    parts.close()
    return 1


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
