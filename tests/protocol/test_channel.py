"""The channel delivers in order, never blocks its sender, and closes on damaged frames."""

from __future__ import annotations

import multiprocessing
import os
import struct
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from multiprocessing.connection import Connection

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.channel import Channel, Closed, service_end, worker_end
from protocol.messages import (
    Cancel,
    Fatal,
    Sampling,
    Submit,
    TextPrompt,
    ToService,
    ToWorker,
)
from tests.waiting import wait_for

Pair = tuple[Connection, Connection]

DAMAGED_FRAMES = {
    "not a message": struct.pack("!i", 3) + b"xyz",
    "empty": struct.pack("!i", 0),
    "a length of 2**62": struct.pack("!i", -1) + struct.pack("!Q", 2**62),
    "a length of 2**31": struct.pack("!i", 2**31 - 1),
    "a damaged message": struct.pack("!i", 8) + b"\x92\xa5fatal\xc1",
}


@pytest.fixture
def pair() -> Iterator[Pair]:
    service_pipe, worker_pipe = multiprocessing.Pipe()
    yield service_pipe, worker_pipe
    service_pipe.close()
    worker_pipe.close()


def channels(pair: Pair) -> tuple[Channel[ToService, ToWorker], Channel[ToWorker, ToService]]:
    return service_end(pair[0]), worker_end(pair[1])


def test_messages_arrive_in_the_order_they_were_sent(pair: Pair) -> None:
    service, worker = channels(pair)
    sent = [Cancel([n]) for n in range(1000)]
    for message in sent:
        service.send(message)
    assert [worker.recv() for _ in sent] == sent


def test_a_message_far_larger_than_the_pipe_does_not_block_its_sender(pair: Pair) -> None:
    service, worker = channels(pair)
    text = "x" * 5_000_000
    service.send(Submit(id=1, model="m", prompt=TextPrompt(text), sampling=Sampling(0)))
    worker.send(Fatal(text))
    assert service.recv() == Fatal(text)
    received = worker.recv()
    assert isinstance(received, Submit)
    assert received.prompt == TextPrompt(text)


def test_a_pipe_made_non_blocking_by_its_event_loop_carries_large_messages(pair: Pair) -> None:
    service, worker = channels(pair)
    os.set_blocking(service.fileno(), False)
    assert list(service.take()) == []
    text = "x" * 5_000_000
    service.send(Submit(id=1, model="m", prompt=TextPrompt(text), sampling=Sampling(0)))
    received = worker.recv()
    assert isinstance(received, Submit)
    assert received.prompt == TextPrompt(text)


def test_small_messages_do_not_overtake_a_large_one_that_waits_for_room(pair: Pair) -> None:
    service, worker = channels(pair)
    sent = [Fatal("x" * 5_000_000), *(Fatal(f"small {n}") for n in range(100))]
    for message in sent:
        worker.send(message)
    assert [service.recv() for _ in sent] == sent


def test_messages_sent_by_several_threads_are_not_mixed(pair: Pair) -> None:
    service, worker = channels(pair)
    text = "x" * 50_000

    def send(first: int) -> None:
        for n in range(first, first + 100):
            service.send(Submit(id=n, model="m", prompt=TextPrompt(text), sampling=Sampling(0)))

    with ThreadPoolExecutor(4) as senders:
        senders.map(send, (0, 100, 200, 300))
        received = [worker.recv() for _ in range(400)]
    assert sorted(m.id for m in received if isinstance(m, Submit)) == list(range(400))


def test_recv_raises_closed_when_the_other_end_closes(pair: Pair) -> None:
    service, worker = channels(pair)
    worker.close()
    with pytest.raises(Closed):
        service.recv()


def test_a_message_sent_before_a_flush_arrives_although_the_sender_closes(pair: Pair) -> None:
    service, worker = channels(pair)
    worker.send(Fatal("the last message"))
    worker.flush(5.0)
    worker.close()
    assert service.recv() == Fatal("the last message")


@pytest.mark.parametrize("frame", DAMAGED_FRAMES.values(), ids=DAMAGED_FRAMES)
def test_recv_raises_closed_on_a_damaged_frame(pair: Pair, frame: bytes) -> None:
    service, _ = channels(pair)
    os.write(pair[1].fileno(), frame)
    with pytest.raises(Closed):
        service.recv()


@pytest.mark.parametrize("frame", DAMAGED_FRAMES.values(), ids=DAMAGED_FRAMES)
def test_take_raises_closed_on_a_damaged_frame(pair: Pair, frame: bytes) -> None:
    service, _ = channels(pair)
    os.write(pair[1].fileno(), frame)
    with pytest.raises(Closed):
        list(service.take())


@given(st.lists(st.text(max_size=60), min_size=1, max_size=6), st.data())
def test_take_returns_all_messages_however_their_bytes_are_split(
    texts: list[str], data: st.DataObject
) -> None:
    service_pipe, worker_pipe = multiprocessing.Pipe()
    with service_pipe, worker_pipe:
        service = service_end(service_pipe)
        bodies = [msgspec.msgpack.encode(Fatal(text)) for text in texts]
        sent = b"".join(struct.pack("!i", len(body)) + body for body in bodies)
        splits = sorted(data.draw(st.lists(st.integers(1, len(sent)), max_size=8)))
        taken: list[ToService] = []
        for start, end in pairwise([0, *splits, len(sent)]):
            if start < end:
                os.write(worker_pipe.fileno(), sent[start:end])
                taken += service.take()
        service.flush(5.0)
    assert taken == [Fatal(text) for text in texts]


def test_take_returns_the_messages_before_a_damaged_frame(pair: Pair) -> None:
    service, _ = channels(pair)
    body = msgspec.msgpack.encode(Fatal("the last message"))
    damaged = struct.pack("!i", 3) + b"xyz"
    os.write(pair[1].fileno(), struct.pack("!i", len(body)) + body + damaged)
    messages = service.take()
    assert next(messages) == Fatal("the last message")
    with pytest.raises(Closed):
        next(messages)


def test_recv_raises_closed_on_a_truncated_message(pair: Pair) -> None:
    service, _ = channels(pair)
    os.write(pair[1].fileno(), struct.pack("!i", 100) + b"half")
    pair[1].close()
    with pytest.raises(Closed):
        service.recv()


def test_sending_to_a_closed_end_raises_no_error(pair: Pair) -> None:
    service, worker = channels(pair)
    worker.close()
    service.send(Cancel([1]))
    service.flush(5.0)
    with pytest.raises(Closed):
        service.recv()


def submit_of(id: int, text: str) -> Submit:
    return Submit(id=id, model="m", prompt=TextPrompt(text), sampling=Sampling(0))


def test_a_queued_message_that_is_withdrawn_is_not_sent(pair: Pair) -> None:
    service, worker = channels(pair)
    # More than the pipe holds: the first message has begun when the others are queued.
    sent = [submit_of(id, "x" * 5_000_000) for id in range(4)]
    for message in sent:
        service.send(message)
    service.withdraw(lambda message: isinstance(message, Submit) and message.id in (0, 1, 3))
    service.send(Cancel([9]))
    assert [worker.recv() for _ in range(3)] == [sent[0], sent[2], Cancel([9])]


def test_nothing_of_a_message_is_kept_once_it_is_withdrawn_or_written(pair: Pair) -> None:
    service, worker = channels(pair)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for id in range(4):
            service.send(submit_of(id, "x" * 5_000_000))
        service.withdraw(lambda message: isinstance(message, Submit))
        worker.recv()
        service.send(Cancel([9]))
        # It comes after all that was to be written.
        assert worker.recv() == Cancel([9])
        wait_for(lambda: tracemalloc.get_traced_memory()[0] - before < 1_000_000, lambda: "kept")
    finally:
        tracemalloc.stop()


def test_a_broken_pipe_keeps_no_messages(pair: Pair) -> None:
    service, worker = channels(pair)
    worker.close()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        service.send(submit_of(1, "x" * 5_000_000))
        wait_for(lambda: tracemalloc.get_traced_memory()[0] - before < 1_000_000, lambda: "kept")
        service.send(submit_of(2, "x" * 5_000_000))
        wait_for(lambda: tracemalloc.get_traced_memory()[0] - before < 1_000_000, lambda: "kept")
    finally:
        tracemalloc.stop()
