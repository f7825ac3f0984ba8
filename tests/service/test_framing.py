"""Frames are the same whether encoded whole or around their text."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Delta, Event, Finished, Started, TokenLogprob
from service.endpoints.chat import ChatDialect
from service.endpoints.completions import CompletionDialect
from service.endpoints.framing import Framer
from service.endpoints.generation import Head
from service.schema.chat import ChatRequest
from service.schema.completions import CompletionRequest
from service.sse import frame

HEAD = Head('id "quoted" \\u0000', 1, 'model\x00"', "fp")
CHAT = ChatRequest(model="m", messages=[])
COMPLETION = CompletionRequest(model="m", prompt="p")
SHAPES: list[tuple[Any, Any]] = [(ChatDialect(), CHAT), (CompletionDialect(), COMPLETION)]


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

    framer: Framer[Any] = Framer(partial(dialect.to_choice, asked), to_chunk)
    scored = TokenLogprob(b"x", -0.5, [])
    events: list[Event] = [
        Started(index, 3),
        *(Delta(index, text, [7]) for text in texts),
        Delta(index, "scored", [7], [scored], settled=1),
        Delta(index, "", [7], [scored], settled=1),
        Delta(index, "thought", [7], channel="reasoning"),
        Finished(index, "stop", 3, len(texts), 0.0, 0.0, 0.0),
    ]
    for event in events:
        assert framer.frame(index, event) == encode_whole(dialect, asked, index, event)
