"""A typed answer with pydantic-ai on a server of one's own: python pydantic_ai_typed.py TEXT [ADDRESS]"""

import sys

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    name: str = Field(max_length=40)
    city: str = Field(max_length=40)


def main(text: str, address: str = "http://127.0.0.1:8080") -> None:
    model = OpenAIChatModel("local", provider=OpenAIProvider(base_url=f"{address}/v1", api_key="none"))
    agent = Agent(model, output_type=NativeOutput(Person))
    print(repr(agent.run_sync(f"Extract name and city as JSON: {text}").output))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
