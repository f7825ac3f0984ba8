"""Streams and plain answers have the same text and tokens, for any division of the events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anyio
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from protocol.events import Event, Finished, FinishReason, Started
from protocol.messages import (
    Sampling,
    Step,
    Submit,
    TextPrompt,
)
from protocol.stats import Memory, Stats
from service.api.chat.format import ChatFormat
from service.api.completions.format import CompletionFormat
from service.generation.answers import collect_answers
from service.generation.dialect import Dialect, ResponseHeader
from service.generation.event_stream import stream_frames
from service.inflight.registry import RequestRegistry
from service.inflight.request import InflightRequest
from service.schema.chat import ChatRequest
from service.schema.completions import CompletionRequest
from service.schema.usage import Usage
from tests.service.inflight.recording_worker import RecordingWorker
from worker.engine.engine import Token
from worker.engine.sampler import make_row
from worker.engine.token_logprobs import Score
from worker.outputs.detokenizer import ByteDetokenizer, LeadingSpaceStripper
from worker.outputs.output_processor import OutputProcessor
from worker.outputs.text import Text
from worker.segmentation.segmenter import Segmenter
from worker.tool_calls.markers import Markers

HEADER = ResponseHeader(id="id-1", created=1, model="m", system_fingerprint="fp")
STOP_TOKEN = 256

texts = st.text("ab \n<|>\u00e9\U0001f600", max_size=24)
stop_lists = st.lists(st.text("ab<|\u00e9\U0001f600", min_size=1, max_size=4), max_size=3)
token_streams = st.one_of(
    texts.map(lambda text: list(text.encode())),
    st.lists(st.sampled_from([*b"ab <|", 0xF0, 0x9F, 0x98, 0x80, 0xC3, 0xA9, 0xFF]), max_size=24),
)


def events_of(tokens: Sequence[int], stop: list[str], *, trim: bool) -> list[Event]:
    """A worker's events for an answer of these tokens (each a byte) and a stop token."""
    inner = ByteDetokenizer(lambda token: bytes([token]))
    processor = OutputProcessor(
        Submit(1, "m", TextPrompt("x"), Sampling(0), stop=stop),
        prompt=[1],
        echo="",
        row=make_row(Sampling(0), logprobs=0),
        text=Text(LeadingSpaceStripper(inner) if trim else inner, stop, Segmenter(Markers())),
        token_bytes=lambda token: bytes([token]) if token != STOP_TOKEN else b"",
        fingerprint="fp",
        received_at=0.0,
    )
    events: list[Event] = [processor.start(0.0)]
    for token in [*tokens, STOP_TOKEN]:
        reason: FinishReason | None = "stop" if token == STOP_TOKEN else None
        events += processor.process(Token(1, token, reason, None, Score(token, -1.0, [])), 0.0)
        if isinstance(events[-1], Finished):
            break
    return events


async def open_request(events: list[Event], step_ends: set[int]) -> InflightRequest:
    """A request whose events arrived in steps that end after the events at these indices."""
    registry = RequestRegistry(
        RecordingWorker(), max_in_flight=1, load_wait_s=0, queue_timeout_s=60
    )
    registry.worker_ready()
    request = await registry.open([Submit(0, "m", TextPrompt("x"), Sampling(0))])
    step: list[Event] = []
    for index, event in enumerate(events):
        step.append(event)
        if index in step_ends or index == len(events) - 1:
            registry.worker_stepped(Step(step, Stats(0, 0, Memory(), 0.0, 0.0)))
            step = []
    return request


async def both(
    dialect: Dialect[Any], request: Any, events: list[Event], step_ends: set[int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The choice of the plain answer, and the choices of the stream's chunks."""
    answers = await collect_answers(await open_request(events, step_ends), 1)
    plain = dialect.to_response(request, HEADER, answers, Usage(1, 1, 2))
    inflight = await open_request(events, step_ends)
    frames = [
        part.removeprefix(b"data: ")
        async for data in stream_frames(inflight, dialect.to_writer(request, HEADER))
        for part in data.split(b"\n\n")
        if part and part != b"data: [DONE]"
    ]
    chunks = [json.loads(part)["choices"][0] for part in frames]
    return json.loads(msgspec.json.encode(plain))["choices"][0], chunks


@given(token_streams, stop_lists, st.sets(st.integers(0, 30)))
def test_a_chat_stream_has_the_text_and_tokens_of_the_plain_answer(
    tokens: list[int], stop: list[str], step_ends: set[int]
) -> None:
    request = msgspec.convert(
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "logprobs": True},
        ChatRequest,
    )
    events = events_of(tokens, stop, trim=True)
    plain, chunks = anyio.run(both, ChatFormat(), request, events, step_ends)
    streamed = "".join(chunk["delta"].get("content") or "" for chunk in chunks)
    assert streamed == plain["message"]["content"]
    assert chunks[-1]["finish_reason"] == plain["finish_reason"]
    scored = [token for c in chunks if c["logprobs"] for token in c["logprobs"]["content"]]
    assert scored == plain["logprobs"]["content"]
    text = b"".join(bytes(token["bytes"]) for token in scored).decode(errors="replace")
    assert plain["message"]["content"].startswith(text.removeprefix(" ")[:-1])
    assert not any(text in plain["message"]["content"] for text in stop)


@given(token_streams, stop_lists, st.sets(st.integers(0, 30)))
def test_a_completion_stream_has_the_text_and_tokens_of_the_plain_answer(
    tokens: list[int], stop: list[str], step_ends: set[int]
) -> None:
    request = msgspec.convert({"model": "m", "prompt": "x", "logprobs": 1}, CompletionRequest)
    events = events_of(tokens, stop, trim=False)
    assert isinstance(events[0], Started)
    plain, chunks = anyio.run(both, CompletionFormat(), request, events, step_ends)
    assert "".join(chunk["text"] for chunk in chunks) == plain["text"]
    for part in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        streamed = [value for c in chunks if c["logprobs"] for value in c["logprobs"][part]]
        assert streamed == plain["logprobs"][part]
    assert not any(text in plain["text"] for text in stop)
