"""A web application with the model inside: uvicorn fastapi_app:app (EDGE_LFM_MODEL names a model; else the demo's)

POST /ask {"question": ...} streams the answer; answers share steps, and one whose client leaves stops.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from edge_lfm import Model


class Question(BaseModel):
    question: str


@asynccontextmanager
async def with_model(app: FastAPI) -> AsyncIterator[None]:
    name = os.environ.get("EDGE_LFM_MODEL")
    with Model.load(*([name] if name else [])) as app.state.model:
        yield


app = FastAPI(lifespan=with_model)


@app.post("/ask")
async def ask(asked: Question) -> StreamingResponse:
    async def texts() -> AsyncIterator[str]:
        async with app.state.model.stream_async(asked.question, max_tokens=200) as answer:
            async for text in answer.texts():
                yield text

    return StreamingResponse(texts(), media_type="text/plain")
