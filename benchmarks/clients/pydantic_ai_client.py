"""pydantic-ai, agents with typed outputs, at /v1/chat/completions."""

import asyncio
from contextlib import suppress

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError, UsageLimitExceeded
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits
from scenarios import ENDLESS, EXTRACT, KEY, MODEL, QUESTION, V1, WEATHER, error_of, report

model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=V1, api_key=KEY))
called = []


class Person(BaseModel):
    name: str = Field(max_length=20)
    city: str = Field(max_length=20)


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    called.append({"city": city})
    return "22 degrees and sunny"


async def pieces(most=None, **settings):
    found = []
    async with Agent(model).run_stream(QUESTION, model_settings=settings) as answer:
        async for piece in answer.stream_text(delta=True, debounce_by=None):
            found.append(piece)
            if len(found) == most:
                break
    return found


def chat():
    return Agent(model).run_sync(QUESTION).output


def stream():
    return asyncio.run(pieces())


def tools():
    called.clear()
    answer = Agent(model, tools=[get_weather]).run_sync(WEATHER).output
    assert answer, "no text after the tool's result"
    return called[0] if called else None


def schema():
    return Agent(model, output_type=NativeOutput(Person)).run_sync(EXTRACT).output.model_dump()


def tools_with_schema():
    called.clear()
    agent, answer = Agent(model, tools=[get_weather], output_type=NativeOutput(Person)), None
    with suppress(UsageLimitExceeded):  # the demo model may call on and on: each call must fit
        answer = agent.run_sync(WEATHER, usage_limits=UsageLimits(request_limit=4)).output.model_dump()
    return called[0] if called else answer


def error():
    return error_of(lambda: Agent(model).run_sync(QUESTION, model_settings={"temperature": -1}), ModelHTTPError)


def cancel():
    return len(asyncio.run(pieces(most=1, extra_body=ENDLESS)))


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
