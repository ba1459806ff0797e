"""openai, OpenAI's package for Python."""

import json

import openai
from scenarios import (
    ASKED,
    ASKED_PERSON,
    ASKED_WEATHER,
    ENDLESS,
    FORMAT,
    FUNCTION,
    KEY,
    MODEL,
    V1,
    error_of,
    report,
)

client = openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0)
create = client.chat.completions.create


def chat():
    return create(model=MODEL, messages=ASKED).choices[0].message.content


def stream():
    return [chunk.choices[0].delta.content or "" for chunk in create(model=MODEL, messages=ASKED, stream=True)]


def tools():
    answer = create(model=MODEL, messages=ASKED_WEATHER, tools=[FUNCTION], tool_choice="required")
    return json.loads(answer.choices[0].message.tool_calls[0].function.arguments)


def schema():
    return json.loads(create(model=MODEL, messages=ASKED_PERSON, response_format=FORMAT).choices[0].message.content)


def tools_with_schema():
    answer = create(model=MODEL, messages=ASKED_WEATHER, tools=[FUNCTION], response_format=FORMAT).choices[0].message
    return json.loads(answer.tool_calls[0].function.arguments if answer.tool_calls else answer.content)


def error():
    return error_of(lambda: create(model=MODEL, messages=ASKED, temperature=-1), openai.BadRequestError)


def cancel():
    with create(model=MODEL, messages=ASKED, stream=True, extra_body=ENDLESS) as chunks:
        next(chunks)
    return 1


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
