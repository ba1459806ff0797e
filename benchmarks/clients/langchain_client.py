"""langchain-openai's ChatOpenAI, and an agent of langchain."""

import openai
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from scenarios import ENDLESS, EXTRACT, KEY, MODEL, QUESTION, V1, WEATHER, error_of, report

called = []


class Person(BaseModel):
    name: str = Field(max_length=20)
    city: str = Field(max_length=20)


@tool
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    called.append({"city": city})
    return "22 degrees and sunny"


def model(**more):
    return ChatOpenAI(model=MODEL, base_url=V1, api_key=KEY, max_retries=0, **more)


def chat():
    return model().invoke(QUESTION).content


def stream():
    return [chunk.content for chunk in model().stream(QUESTION)]


def tools():
    call = model().bind_tools([get_weather], tool_choice="required").invoke(WEATHER).tool_calls[0]
    called.clear()
    answer = create_agent(model(), [get_weather]).invoke({"messages": [("user", WEATHER)]})["messages"][-1]
    assert answer.content, "an agent without a text"
    return call["args"]


def schema():
    return model().with_structured_output(Person, method="json_schema").invoke(EXTRACT).model_dump()


def tools_with_schema():
    bound = model().with_structured_output(Person, tools=[get_weather], strict=True, include_raw=True)
    answer = bound.invoke(WEATHER)
    calls = answer["raw"].tool_calls
    return calls[0]["args"] if calls else answer["parsed"].model_dump()


def error():
    return error_of(lambda: model(temperature=-1).invoke(QUESTION), openai.BadRequestError)


def cancel():
    chunks = model(extra_body=ENDLESS).stream(QUESTION)
    next(chunks)
    chunks.close()
    return 1


report(chat, stream, tools, schema, tools_with_schema, error, cancel)
