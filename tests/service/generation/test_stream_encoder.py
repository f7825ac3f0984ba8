"""A frame built from the cached prefix and suffix equals the frame encoded as a whole."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from protocol.events import Event, Finished, Progress, Started, TextDelta, TokenLogprob
from service.api.chat.format import ChatFormat
from service.api.completions.format import CompletionFormat
from service.generation.dialect import ResponseHeader
from service.generation.event_stream import frame
from service.generation.stream_encoder import ChunkWriter
from service.schema.chat import ChatRequest
from service.schema.completions import CompletionRequest

HEADER = ResponseHeader(
    id='id "quoted" \\u0000', created=1, model='model\x00"', system_fingerprint="fp"
)
CHAT = ChatRequest(model="m", messages=[])
COMPLETION = CompletionRequest(model="m", prompt="p")
FORMATS: list[tuple[Any, Any]] = [(ChatFormat(), CHAT), (CompletionFormat(), COMPLETION)]


def encode_whole(api_format: Any, request: Any, index: int, event: Event) -> bytes:
    choice = api_format.to_choice(request, index, event)
    if choice is None:
        return b""
    return frame(msgspec.json.encode(api_format.to_chunk(request, HEADER, [choice], UNSET)))


@given(texts=st.lists(st.text(), max_size=5), index=st.integers(0, 3))
@pytest.mark.parametrize(("api_format", "request_"), FORMATS)
def test_a_frame_of_text_equals_the_frame_encoded_as_a_whole(
    api_format: Any, request_: Any, texts: list[str], index: int
) -> None:
    encoder: ChunkWriter[Any, Any] = ChunkWriter(api_format, request_, HEADER)
    token = TokenLogprob(b"x", -0.5, [])
    events: list[Event] = [
        Started(index, 3),
        *(TextDelta(index, text, [7]) for text in texts),
        TextDelta(id=index, text="scored", tokens=[7], logprobs=[token], settled=1),
        TextDelta(id=index, text="", tokens=[7], logprobs=[token], settled=1),
        TextDelta(index, "thought", [7], kind="reasoning"),
        Finished(
            id=index,
            reason="stop",
            prompt_tokens=3,
            completion_tokens=len(texts),
            queue_ms=0.0,
            prefill_ms=0.0,
            decode_ms=0.0,
        ),
    ]
    for event in events:
        assert encoder.encode(index, event) == encode_whole(api_format, request_, index, event)


@given(st.lists(st.integers(0, 120), max_size=12))
@pytest.mark.parametrize(("api_format", "request_"), FORMATS)
def test_reports_of_a_prefill_only_rise_even_where_a_crash_begins_it_again(
    api_format: Any, request_: Any, done: list[int]
) -> None:
    asked = msgspec.structs.replace(request_, stream=True, return_progress=True)
    encoder: ChunkWriter[Any, Any] = ChunkWriter(api_format, asked, HEADER)
    frames = [encoder.encode(0, Started(0, 100, cached_tokens=10))]
    frames += [encoder.encode(0, Progress(0, count, 100, 5.0)) for count in done]
    chunks = [msgspec.json.decode(each.removeprefix(b"data: ")) for each in frames if each]
    processed = [chunk["prompt_progress"]["processed"] for chunk in chunks]
    assert processed == sorted(set(processed))
    assert processed[0] == 10
    assert processed[-1] == max(min(100, count) for count in [10, *done])
