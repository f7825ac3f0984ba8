"""Frames are the same whether encoded whole or around their text."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Event, Finished, Started, TextDelta, TokenLogprob
from service.api.chat.format import ChatFormat
from service.api.completions import CompletionFormat
from service.api.event_stream import frame
from service.api.generation import ResponseHeader
from service.api.stream_encoder import StreamEncoder
from service.schema.chat import ChatRequest
from service.schema.completions import CompletionRequest

HEAD = ResponseHeader('id "quoted" \\u0000', 1, 'model\x00"', "fp")
CHAT = ChatRequest(model="m", messages=[])
COMPLETION = CompletionRequest(model="m", prompt="p")
SHAPES: list[tuple[Any, Any]] = [(ChatFormat(), CHAT), (CompletionFormat(), COMPLETION)]


def encode_whole(dialect: Any, asked: Any, index: int, event: Event) -> bytes:
    choice = dialect.to_choice(asked, index, event)
    if choice is None:
        return b""
    return frame(msgspec.json.encode(dialect.to_chunk(asked, HEAD, [choice], None)))


@given(texts=st.lists(st.text(), max_size=5), index=st.integers(0, 3))
@pytest.mark.parametrize(("dialect", "asked"), SHAPES)
def test_a_frame_of_text_is_what_encoding_all_of_it_gives(
    dialect: Any, asked: Any, texts: list[str], index: int
) -> None:
    def to_chunk(choices: list[Any]) -> msgspec.Struct:
        chunk: msgspec.Struct = dialect.to_chunk(asked, HEAD, choices, None)
        return chunk

    framer: StreamEncoder[Any] = StreamEncoder(partial(dialect.to_choice, asked), to_chunk)
    scored = TokenLogprob(b"x", -0.5, [])
    events: list[Event] = [
        Started(index, 3),
        *(TextDelta(index, text, [7]) for text in texts),
        TextDelta(index, "scored", [7], [scored], settled=1),
        TextDelta(index, "", [7], [scored], settled=1),
        TextDelta(index, "thought", [7], kind="reasoning"),
        Finished(index, "stop", 3, len(texts), 0.0, 0.0, 0.0),
    ]
    for event in events:
        assert framer.encode(index, event) == encode_whole(dialect, asked, index, event)
