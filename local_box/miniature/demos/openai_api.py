"""glmbox's stand-in of the upstream file openai_api.py, with the same interface: /v1/models, /v1/chat/completions."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import torch
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from pydantic import BaseModel, Field
from sse_starlette.sse import EventSourceResponse
from transformers import AutoModel, AutoTokenizer

Role = Literal["user", "assistant", "system"]
FinishReason = Literal["stop", "length"]


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


@asynccontextmanager
async def free_gpu_memory_at_end(_app: FastAPI) -> AsyncIterator[None]:
    """Hand cached GPU memory back when the server stops."""
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()


app = FastAPI(lifespan=free_gpu_memory_at_end)
app.add_middleware(
    CORSMiddleware, allow_origins=["*"], allow_credentials=True, allow_methods=["*"], allow_headers=["*"]
)


class ModelEntry(BaseModel):
    id: str
    object: str = "model"
    created: int = Field(default_factory=now)
    owned_by: str = "owner"
    root: str | None = None
    parent: str | None = None
    permission: list | None = None


class ModelEntries(BaseModel):
    object: str = "list"
    data: list[ModelEntry] = []


class Message(BaseModel):
    role: Role
    content: str


class Delta(BaseModel):
    role: Role | None = None
    content: str | None = None


class Question(BaseModel):
    """A request. temperature, top_p and max_length are accepted and not used, as upstream."""

    model: str
    messages: list[Message]
    temperature: float | None = None
    top_p: float | None = None
    max_length: int | None = None
    stream: bool | None = False


class WholeChoice(BaseModel):
    index: int
    message: Message
    finish_reason: FinishReason


class StreamChoice(BaseModel):
    index: int
    delta: Delta
    finish_reason: FinishReason | None


class Completion(BaseModel):
    model: str
    object: Literal["chat.completion", "chat.completion.chunk"]
    choices: list[WholeChoice | StreamChoice]
    created: int | None = Field(default_factory=now)


def read_messages(messages: list[Message]) -> tuple:
    """The question to ask and the rounds before it, from the messages of a request."""
    *earlier, last = messages
    query = last.content
    if earlier and earlier[0].role == "system":
        query = earlier.pop(0).content + query
    if len(earlier) % 2:
        return query, []
    pairs = zip(earlier[::2], earlier[1::2])  # noqa: B905 (halves of one even list)
    return query, [[q.content, a.content] for q, a in pairs if (q.role, a.role) == ("user", "assistant")]


@app.get("/v1/models", response_model=ModelEntries)
async def list_models() -> ModelEntries:
    """The one model, under the name that OpenAI clients ask for."""
    return ModelEntries(data=[ModelEntry(id="gpt-3.5-turbo")])


@app.post("/v1/chat/completions", response_model=Completion)
async def complete_chat(question: Question):
    """Answer the last message, whole or as a stream; generation blocks the event loop, as it does upstream."""
    if question.messages[-1].role != "user":
        raise HTTPException(status_code=400, detail="Invalid request")
    query, history = read_messages(question.messages)
    if question.stream:
        return EventSourceResponse(stream_answer(query, history, question.model), media_type="text/event-stream")
    response, _ = model.chat(tokenizer, query, history=history)
    choice = WholeChoice(index=0, message=Message(role="assistant", content=response), finish_reason="stop")
    return Completion(model=question.model, object="chat.completion", choices=[choice])


def make_chunk(model_name: str, delta: Delta, finish_reason: str | None = None) -> str:
    """One event of the stream, as JSON. Under pydantic 2 this raises TypeError, as it does upstream."""
    choice = StreamChoice(index=0, delta=delta, finish_reason=finish_reason)
    chunk = Completion(model=model_name, object="chat.completion.chunk", choices=[choice])
    return chunk.json(exclude_unset=True, ensure_ascii=False)


async def stream_answer(query: str, history: list[list[str]], model_name: str) -> AsyncIterator[str]:
    """The events of one streamed answer: the role, the pieces of text, the end, and the [DONE] mark."""
    yield make_chunk(model_name, Delta(role="assistant"))
    sent = 0
    for response, _ in model.stream_chat(tokenizer, query, history):
        if len(response) > sent:
            yield make_chunk(model_name, Delta(content=response[sent:]))
            sent = len(response)
    yield make_chunk(model_name, Delta(), "stop")
    yield "[DONE]"


if __name__ == "__main__":
    tokenizer = AutoTokenizer.from_pretrained("THUDM/chatglm2-6b", trust_remote_code=True)
    model = AutoModel.from_pretrained("THUDM/chatglm2-6b", trust_remote_code=True).cuda()
    model.eval()
    uvicorn.run(app, host="0.0.0.0", port=8000, workers=1)
