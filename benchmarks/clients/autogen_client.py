"""autogen's OpenAIChatCompletionClient, and its AssistantAgent."""

import asyncio

import openai
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import UserMessage
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel, Field
from scenarios import ENDLESS, EXTRACT, KEY, MODEL, QUESTION, V1, WEATHER, error_of, report

ABLE = {"vision": False, "function_calling": True, "json_output": True, "family": "unknown", "structured_output": True}
loop = asyncio.new_event_loop()
called = []


class Person(BaseModel):
    name: str = Field(max_length=20)
    city: str = Field(max_length=20)


async def get_weather(city: str) -> str:
    """Get the weather in a city."""
    called.append({"city": city})
    return "22 degrees and sunny"


client = OpenAIChatCompletionClient(model=MODEL, base_url=V1, api_key=KEY, max_retries=0, model_info=ABLE)


def said(text):
    return [UserMessage(content=text, source="user")]


def ask(text, **more):
    return loop.run_until_complete(client.create(said(text), **more)).content


async def pieces(most=None, **extra):
    found = []
    stream = client.create_stream(said(QUESTION), extra_create_args=extra)
    async for piece in stream:
        if isinstance(piece, str):
            found.append(piece)
        if len(found) == most:
            await stream.aclose()
            break
    return found


def agent(**more):
    return AssistantAgent("agent", client, tools=[FunctionTool(get_weather, get_weather.__doc__, strict=True)], **more)


def last(task):
    return loop.run_until_complete(task).messages[-1]


def chat():
    return ask(QUESTION)


def stream():
    return loop.run_until_complete(pieces())


def tools():
    called.clear()
    last(agent(reflect_on_tool_use=True).run(task=WEATHER))
    return called[0] if called else None


def schema():
    return Person.model_validate_json(ask(EXTRACT, json_output=Person)).model_dump()


def tools_with_schema():
    called.clear()
    answer = last(agent(output_content_type=Person).run(task=WEATHER)).content
    return called[0] if called else answer.model_dump()


def error():
    return error_of(lambda: ask(QUESTION, extra_create_args={"temperature": -1}), openai.BadRequestError)


def cancel():
    return len(loop.run_until_complete(pieces(1, extra_body=ENDLESS)))


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
