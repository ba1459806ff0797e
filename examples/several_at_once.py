"""Several answers at once in asyncio, their tokens in the same steps: python examples/several_at_once.py [MODEL]"""

import asyncio
import sys

from edge_lfm import Model


async def main() -> None:
    with Model.load(*sys.argv[1:]) as model:
        questions = [f"What is the capital of {country}?" for country in ("France", "Spain", "Italy")]
        for answer in await asyncio.gather(*(model.generate_async(question) for question in questions)):
            print(answer.text)


asyncio.run(main())
