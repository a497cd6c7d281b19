"""A chat endpoint that streams, and one that takes the reader's verdict: uvicorn fastapi_app:app

pip install 'tierwise[cli]' fastapi; OPENAI_BASE_URL and OPENAI_API_KEY say where the models are. Try it:

    curl -N -H 'content-type: application/json' -d '{"text": "Say hello."}' http://127.0.0.1:8000/chat
    curl -H 'content-type: application/json' -d '{"receipt": "tw1…", "good": true}' http://127.0.0.1:8000/verdict
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

import tierwise

client = tierwise.instrument(AsyncOpenAI(), stream_usage=True)
app = FastAPI()


class Question(BaseModel):
    """What the reader asks."""

    text: str


class Verdict(BaseModel):
    """What the reader thinks of an answer."""

    receipt: str
    good: bool


@app.post("/chat")
async def chat(question: Question) -> StreamingResponse:
    """The answer as server-sent events; the last one holds the receipt. A reader who leaves early ends the call too."""
    return StreamingResponse(events(question.text), media_type="text/event-stream")


async def events(text: str) -> AsyncIterator[str]:
    """Pieces of the answer as they come, then the receipt."""
    with tierwise.task("chat"):
        stream = await client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": text}], stream=True
        )
    async with stream:
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield f"data: {json.dumps({'text': chunk.choices[0].delta.content})}\n\n"
        yield f"data: {json.dumps({'receipt': tierwise.receipt(stream)})}\n\n"


@app.post("/verdict", status_code=204)
def verdict(given: Verdict) -> None:
    """Takes a verdict, minutes or days later, in any process. Set TIERWISE_RECEIPT_KEY: receipts pass through browsers."""
    try:
        tierwise.feedback(given.receipt, accepted=given.good)
    except tierwise.ReceiptError as error:
        raise HTTPException(400, str(error)) from None
