"""ag2's Agent."""

import asyncio

import openai
from ag2 import Agent
from ag2.config import OpenAIConfig
from ag2.events import ModelMessageChunk
from ag2.stream import MemoryStream
from pydantic import BaseModel, Field
from scenarios import ENDLESS, EXTRACT, KEY, MODEL, QUESTION, V1, WEATHER, error_of, report

loop = asyncio.new_event_loop()
called = []


class Person(BaseModel):
    name: str = Field(max_length=20)
    city: str = Field(max_length=20)


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    called.append({"city": city})
    return "22 degrees and sunny"


def ask(text, agent=None, streamed=None, **config):
    made = OpenAIConfig(MODEL, base_url=V1, api_key=KEY, max_retries=0, streaming=streamed is not None, **config)
    return loop.run_until_complete(Agent("agent", config=made, **(agent or {})).ask(text, stream=streamed))


def chat():
    return ask(QUESTION).body


def stream():
    pieces, events = [], MemoryStream()
    events.where(ModelMessageChunk).subscribe(lambda event: pieces.append(event.content))
    ask(QUESTION, streamed=events)
    return pieces


def tools():
    called.clear()
    ask(WEATHER, {"tools": [get_weather]})
    return called[0] if called else None


def schema():
    return loop.run_until_complete(ask(EXTRACT, {"response_schema": Person}).content()).model_dump()


def tools_with_schema():
    called.clear()
    answer = ask(WEATHER, {"tools": [get_weather], "response_schema": Person})
    return called[0] if called else loop.run_until_complete(answer.content()).model_dump()


def error():
    return error_of(lambda: ask(QUESTION, temperature=-1), openai.BadRequestError)


def cancel():
    events, first = MemoryStream(), asyncio.Event()
    events.where(ModelMessageChunk).subscribe(lambda _event: first.set())
    config = OpenAIConfig(MODEL, base_url=V1, api_key=KEY, streaming=True, extra_body=ENDLESS)

    async def leave():
        asking = asyncio.create_task(Agent("agent", config=config).ask(QUESTION, stream=events))
        await first.wait()
        asking.cancel()
        await asyncio.wait([asking])

    loop.run_until_complete(leave())
    return 1


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
