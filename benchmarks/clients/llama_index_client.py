"""llama-index's OpenAILike."""

import openai
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field
from scenarios import EXTRACT, KEY, MODEL, QUESTION, V1, WEATHER, error_of, report


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=20)
    city: str = Field(max_length=20)


def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return f"22 degrees and sunny in {city}"


def model(**more):
    able = {"is_chat_model": True, "is_function_calling_model": True, "should_use_structured_outputs": True}
    return OpenAILike(model=MODEL, api_base=V1, api_key=KEY, max_retries=0, **able, **more)


def chat():
    return model().chat([ChatMessage(QUESTION)]).message.content


def stream():
    return [part.delta for part in model().stream_chat([ChatMessage(QUESTION)])]


def tools():
    answer = model().chat_with_tools([FunctionTool.from_defaults(get_weather)], WEATHER, tool_required=True)
    return model().get_tool_calls_from_response(answer)[0].tool_kwargs


def schema():
    return model().as_structured_llm(Person).complete(EXTRACT).raw.model_dump()


def error():
    wrong = model(additional_kwargs={"temperature": -1})
    return error_of(lambda: wrong.chat([ChatMessage(QUESTION)]), openai.BadRequestError)


def cancel():
    endless = {"extra_body": {"ignore_eos": True}, "max_tokens": 30_000}
    parts = model(additional_kwargs=endless).stream_chat([ChatMessage(QUESTION)])
    next(parts)
    parts.close()
    return 1


report(chat, stream, tools, schema, error, cancel)
