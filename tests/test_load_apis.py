"""The load's clients read the streams and whole answers of all three APIs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.load.apis import APIS, GENERATING, TEXTS, ApiName
from tests.load.timings import Timing, ask
from tests.load.workload import Workload

pytestmark = pytest.mark.anyio

USAGE = {"input_tokens": 9, "output_tokens": 3}
CACHED = {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 0}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n"


def data(value: object) -> str:
    return f"data: {json.dumps(value)}\n\n"


def chunk(delta: dict[str, Any]) -> str:
    return data({"choices": [{"index": 0, "delta": delta}]})


STREAMS: dict[ApiName, list[str]] = {
    "chat": [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "data: think"}),
        ": keep-alive\n\n",
        chunk({"content": "Hel"}),
        chunk({"content": "lo"}),
        data({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}),
        "data: [DONE]\n\n",
    ],
    "responses": [
        event("response.created", response={"status": "in_progress", "usage": None}),
        event("response.in_progress", response={"status": "in_progress", "error": None}),
        event("response.output_item.added", item={"type": "reasoning"}),
        event("response.reasoning_text.delta", delta="data: think"),
        event("response.output_text.delta", delta="Hel", logprobs=[]),
        event("response.output_text.delta", delta="lo", logprobs=[]),
        event("response.output_text.done", text="Hello"),
        event("response.completed", response={"status": "completed", "usage": USAGE}),
    ],
    "messages": [
        event("message_start", message={"usage": CACHED}),
        event("ping"),
        event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
        event("content_block_delta", delta={"type": "thinking_delta", "thinking": "data: think"}),
        event("content_block_delta", delta={"type": "signature_delta", "signature": "x"}),
        event("content_block_stop", index=0),
        event("content_block_delta", delta={"type": "text_delta", "text": "Hel"}),
        event("content_block_delta", delta={"type": "text_delta", "text": "lo"}),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 3}),
        event("message_stop"),
    ],
}
WHOLE: dict[ApiName, Any] = {
    "chat": {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}},
    "responses": {"output": [], "error": None, "usage": USAGE},
    "messages": {"content": [], "usage": {**USAGE, "input_tokens": 9}},
}
FAILURES: dict[ApiName, str] = {
    "chat": data({"error": {"code": "worker_crashed", "type": "server_error"}}),
    "responses": event(
        "response.failed", response={"error": {"code": "worker_crashed", "message": "x"}}
    ),
    "messages": event("error", error={"type": "worker_crashed", "message": "x"}),
}


async def in_parts(content: bytes) -> AsyncIterator[bytes]:
    """The content in parts that do not end where events do."""
    for start in range(0, len(content), 100):
        yield content[start : start + 100]


async def timing_of(api: ApiName, content: str | Any, *, status: int = 200) -> Timing:
    """What is measured of an answer; the request has the path and the limit of its API."""

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert request.url.path == APIS[api].path
        limit = "max_output_tokens" if api == "responses" else "max_tokens"
        assert body[limit] == 128
        assert body.get("input", body.get("messages"))[0]["role"] == "user"
        assert ("stream_options" in body) == (api == "chat" and isinstance(content, str))
        if isinstance(content, str):
            return httpx.Response(status, content=in_parts(content.encode()))
        return httpx.Response(status, json=content)

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://load") as client:
        body = Workload(stream=isinstance(content, str)).body(1)
        return await ask(client, body, 0.0, api)


@pytest.mark.parametrize("api", GENERATING)
async def test_a_stream_has_its_tokens_and_pieces_of_text(api: ApiName) -> None:
    timing = await timing_of(api, "".join(STREAMS[api]))
    assert timing.error is None
    assert (timing.prompt_tokens, timing.tokens, len(timing.text_at)) == (9, 3, 3)


@pytest.mark.parametrize("api", GENERATING)
async def test_a_stream_without_its_end_failed(api: ApiName) -> None:
    timing = await timing_of(api, "".join(STREAMS[api][:-1]))
    assert timing.error == "no end"


@pytest.mark.parametrize("api", GENERATING)
async def test_an_error_in_a_stream_is_counted_by_its_kind(api: ApiName) -> None:
    timing = await timing_of(api, "".join([*STREAMS[api][:-1], FAILURES[api]]))
    assert timing.error == "in the stream: worker_crashed"


@pytest.mark.parametrize("api", GENERATING)
async def test_a_whole_answer_has_its_tokens(api: ApiName) -> None:
    timing = await timing_of(api, WHOLE[api])
    assert (timing.prompt_tokens, timing.tokens, timing.error) == (9, 3, None)


@pytest.mark.parametrize("api", GENERATING)
async def test_a_refusal_is_counted_by_its_status(api: ApiName) -> None:
    timing = await timing_of(api, {"error": {"type": "overloaded"}}, status=503)
    assert timing.error == "503 overloaded"


async def test_embeddings_have_the_tokens_of_their_texts() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        assert request.url.path == "/v1/embeddings"
        assert len(set(body["input"])) == TEXTS
        assert body.keys() == {"model", "input", "encoding_format"}
        return httpx.Response(200, json={"data": [], "usage": {"prompt_tokens": 9}})

    transport = httpx.MockTransport(answer)
    async with httpx.AsyncClient(transport=transport, base_url="http://load") as client:
        timing = await ask(client, Workload(stream=False).body(1), 0.0, "embeddings")
    assert (timing.prompt_tokens, timing.tokens, timing.error) == (9, 9, None)
