"""instructor, typed answers on top of openai: by tools, and by a JSON schema. It reads a stream
of objects to its end before it gives them, so nothing can be left."""

import instructor
import openai
from instructor.core import InstructorRetryException
from pydantic import BaseModel, Field
from scenarios import ASKED, ASKED_PERSON, KEY, MODEL, V1, error_of, report

plain = openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0)
by_tools = instructor.from_openai(plain, mode=instructor.Mode.TOOLS)
by_schema = instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)


class Person(BaseModel):
    name: str = Field(max_length=20)
    city: str = Field(max_length=20)


def schema():
    return by_schema.create(model=MODEL, messages=ASKED_PERSON, response_model=Person, max_retries=0).model_dump()


def tools():
    return by_tools.create(model=MODEL, messages=ASKED_PERSON, response_model=Person, max_retries=0).model_dump()


def stream():
    parts = by_schema.create_partial(model=MODEL, messages=ASKED_PERSON, response_model=Person)
    return [part.model_dump_json() for part in parts]


def error():
    ask = {"model": MODEL, "messages": ASKED, "response_model": Person, "temperature": -1, "max_retries": 0}
    return error_of(lambda: by_schema.create(**ask), InstructorRetryException, openai.BadRequestError)


report(stream, tools, schema, error)
