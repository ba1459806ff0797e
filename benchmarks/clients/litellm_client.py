"""litellm, one interface for many servers: as an OpenAI server that it does not know."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it asks the network for prices otherwise
import litellm
from scenarios import ASKED, ASKED_PERSON, ASKED_WEATHER, ENDLESS, FORMAT, FUNCTION, KEY, MODEL, V1, error_of, report

litellm.suppress_debug_info = True


def ask(messages=ASKED, **more):
    return litellm.completion(f"openai/{MODEL}", messages, api_base=V1, api_key=KEY, max_retries=0, **more)


def chat():
    return ask().choices[0].message.content


def stream():
    return [chunk.choices[0].delta.content or "" for chunk in ask(stream=True)]


def tools():
    answer = ask(ASKED_WEATHER, tools=[FUNCTION], tool_choice="required")
    return json.loads(answer.choices[0].message.tool_calls[0].function.arguments)


def schema():
    return json.loads(ask(ASKED_PERSON, response_format=FORMAT).choices[0].message.content)


def tools_with_schema():
    answer = ask(ASKED_WEATHER, tools=[FUNCTION], response_format=FORMAT).choices[0].message
    return json.loads(answer.tool_calls[0].function.arguments if answer.tool_calls else answer.content)


def error():
    return error_of(lambda: ask(temperature=-1), litellm.BadRequestError)


def cancel():
    chunks = ask(stream=True, extra_body=ENDLESS)
    next(chunks)
    chunks.completion_stream.close()
    return 1


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
