"""outlines, typed answers, on top of openai."""

import json

import openai
import outlines
from outlines.exceptions import OutlinesError
from pydantic import BaseModel, Field
from scenarios import ENDLESS, EXTRACT, KEY, MODEL, QUESTION, V1, error_of, report

model = outlines.from_openai(openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0), MODEL)


class Person(BaseModel):
    name: str = Field(max_length=20)
    city: str = Field(max_length=20)


def chat():
    return model(QUESTION)


def stream():
    return list(model.stream(QUESTION))


def schema():
    return json.loads(model(EXTRACT, Person))


def error():
    return error_of(lambda: model(QUESTION, temperature=-1), OutlinesError, openai.BadRequestError)


def cancel():
    pieces = model.stream(QUESTION, extra_body=ENDLESS)
    next(pieces)
    pieces.close()
    return 1


report(chat, stream, schema, error, cancel)
