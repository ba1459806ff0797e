"""guidance, programs of text and bound answers, on top of openai. It asks with streams, of which it tells no pieces."""

import guidance
import openai
from guidance import assistant, gen, user
from pydantic import BaseModel, Field
from scenarios import EXTRACT, KEY, MODEL, QUESTION, V1, error_of, report

model = guidance.models.OpenAI(MODEL, api_key=KEY, base_url=V1, max_retries=0, echo=False)


class Person(BaseModel):
    name: str = Field(max_length=20)
    city: str = Field(max_length=20)


def ask(question, what):
    with user():
        asked = model + question
    with assistant():
        return asked + what


def chat():
    return ask(QUESTION, gen("answer"))["answer"]


def schema():
    answer = ask(EXTRACT, guidance.json("answer", schema=Person))["answer"]
    return Person.model_validate_json(answer).model_dump()


def error():
    return error_of(lambda: ask(QUESTION, gen("answer", temperature=-1)), openai.BadRequestError)


report(chat, schema, error)
