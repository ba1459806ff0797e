"""huggingface_hub's InferenceClient, at an endpoint of one's own."""

import json

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from scenarios import ASKED, ASKED_PERSON, ASKED_WEATHER, ENDLESS, FORMAT, FUNCTION, KEY, MODEL, V1, error_of, report

ask = InferenceClient(base_url=V1, api_key=KEY).chat.completions.create


def chat():
    return ask(ASKED, model=MODEL).choices[0].message.content


def stream():
    return [chunk.choices[0].delta.content or "" for chunk in ask(ASKED, model=MODEL, stream=True)]


def tools():
    answer = ask(ASKED_WEATHER, model=MODEL, tools=[FUNCTION], tool_choice="required")
    return json.loads(answer.choices[0].message.tool_calls[0].function.arguments)


def schema():
    return json.loads(ask(ASKED_PERSON, model=MODEL, response_format=FORMAT).choices[0].message.content)


def tools_with_schema():
    answer = ask(ASKED_WEATHER, model=MODEL, tools=[FUNCTION], response_format=FORMAT).choices[0].message
    return json.loads(answer.tool_calls[0].function.arguments if answer.tool_calls else answer.content)


def error():
    return error_of(lambda: ask(ASKED, model=MODEL, temperature=-1), HfHubHTTPError)


def cancel():
    chunks = ask(ASKED, model=MODEL, stream=True, extra_body=ENDLESS)
    next(chunks)
    chunks.close()
    return 1


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
