"""openai-agents, OpenAI's framework for agents, at /v1/responses."""

import asyncio

import agents
import openai
from pydantic import BaseModel, Field
from scenarios import EXTRACT, KEY, MODEL, QUESTION, V1, WEATHER, error_of, report

agents.set_tracing_disabled(True)
client = openai.AsyncOpenAI(base_url=V1, api_key=KEY, max_retries=0)
model = agents.OpenAIResponsesModel(MODEL, client)
loop = asyncio.new_event_loop()
called = []


class Person(BaseModel):
    name: str = Field(max_length=20)
    city: str = Field(max_length=20)


@agents.function_tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    called.append({"city": city})
    return "22 degrees and sunny"


def agent(**more):
    return agents.Agent(name="agent", model=model, **more)


def run(one, text):
    return loop.run_until_complete(agents.Runner.run(one, text)).final_output


async def pieces(one, text, most=None):
    run = agents.Runner.run_streamed(one, text)
    found = []
    async for event in run.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            found.append(event.data.delta)
        if len(found) == most:
            run.cancel()
            await asyncio.sleep(0.5)  # its tasks end on this loop
            break
    return found


def chat():
    return run(agent(), QUESTION)


def stream():
    return loop.run_until_complete(pieces(agent(), QUESTION))


def tools():
    called.clear()
    must = agents.ModelSettings(tool_choice="required")
    assert run(agent(tools=[get_weather], model_settings=must), WEATHER), "no text after the tool's result"
    return called[0]


def schema():
    return run(agent(output_type=Person), EXTRACT).model_dump()


def tools_with_schema():
    called.clear()
    answer = run(agent(tools=[get_weather], output_type=Person), WEATHER).model_dump()
    return called[0] if called else answer


def error():
    wrong = agent(model_settings=agents.ModelSettings(temperature=-1))
    return error_of(lambda: run(wrong, QUESTION), openai.BadRequestError)


def cancel():
    endless = agent(model_settings=agents.ModelSettings(max_tokens=30_000, extra_body={"ignore_eos": True}))
    return len(loop.run_until_complete(pieces(endless, QUESTION, most=1)))


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
