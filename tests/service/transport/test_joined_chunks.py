"""Joined chunks have the data and the faults that h11 finds in the chunks."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.transport.http1 import Parser
from service.transport.joined_chunks import MAX_JOINED

HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
MAX_EVENT_BYTES = 4096
NEXT = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
FAULTY = [b"zz\r\n", b"2\r\nabc\r\n", b"1\na\n", b"-1\r\n", b"\r\n", b"1\r\na\r", b"1 x\r\na\r\n"]


def frame(data: bytes, size: str) -> bytes:
    return size.encode() % len(data) + b"\r\n" + data + b"\r\n"


CHUNK = st.builds(
    frame, st.binary(min_size=1, max_size=20), st.sampled_from(["%x", "%X", "0%x", "%x;a=b", "%x "])
)
BODY = st.lists(st.one_of(CHUNK, CHUNK, CHUNK, st.sampled_from(FAULTY)), max_size=12)
END = st.sampled_from([b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"0\r\n\r\n" + NEXT, b"", b"0"])


def read(connection: h11.Connection, pieces: list[bytes]) -> tuple[bytes, list[str], int]:
    """The data, the other events, and how many events had data."""
    data, others, count = b"", [], 0
    for piece in pieces:
        try:
            connection.receive_data(piece)
            while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Data):
                    data, count = data + event.data, count + 1
                else:
                    others.append(repr(event))
        except h11.RemoteProtocolError as error:
            return data, [*others, str(error)], count
    return data, others, count


def new_parser() -> Parser:
    return Parser(h11.SERVER, max_incomplete_event_size=MAX_EVENT_BYTES)


@given(BODY, END, st.lists(st.integers(1, 60)))
def test_joined_chunks_are_what_h11_reads_however_they_arrive(
    chunks: list[bytes], end: bytes, sizes: list[int]
) -> None:
    message = HEAD + b"".join(chunks) + end
    pieces, start = [], 0
    for size in [*sizes, len(message)]:
        pieces.append(message[start : start + size])
        start += size
    # No bytes are the end of the file.
    pieces = [piece for piece in pieces if piece]
    known = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_EVENT_BYTES)
    assert read(new_parser(), pieces)[:2] == read(known, pieces)[:2]


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1), st.text(" \t", max_size=3))
def test_white_space_before_an_extension_is_none_of_the_chunk(
    chunks: list[bytes], space: str
) -> None:
    framed = [frame(data, f"%x{space};a=b") for data in chunks]
    pieces = [
        bytes([each]) for each in HEAD + b"".join(framed) + b"0" + space.encode() + b";x\r\n\r\n"
    ]
    data, others, _ = read(new_parser(), pieces)
    assert data == b"".join(chunks)
    assert others[-1] == "EndOfMessage(headers=<Headers([])>)"


@pytest.mark.parametrize("size", [1, 100])
def test_many_small_chunks_are_few_events(size: int) -> None:
    chunks = frame(b"a" * size, "%x") * (10 * MAX_JOINED)
    data, _, events = read(new_parser(), [HEAD + chunks + b"0\r\n\r\n"])
    assert data == b"a" * size * 10 * MAX_JOINED
    assert events <= 10
