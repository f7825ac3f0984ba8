"""A worker's standard error is copied, its end is kept, and nobody waits for who does not read."""

from __future__ import annotations

import os
import re
import select
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.supervision.standard_error import KEPT_BYTES, StandardErrorCopy
from tests.waiting import HANG_S

MORE_THAN_A_PIPE = 1_000_000
NOTICE = re.compile(rb"\n\((\d+) bytes of the worker's standard error were dropped\)\n")

Pipe = tuple[int, int]


@pytest.fixture
def worker() -> Pipe:
    """The pipe that the worker writes to; the copy closes its read end."""
    return os.pipe()


@pytest.fixture
def terminal() -> Iterator[Pipe]:
    """The pipe that the text is copied to."""
    read_end, write_end = os.pipe()
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


def test_all_text_is_copied_and_the_last_4_kb_are_kept(worker: Pipe, terminal: Pipe) -> None:
    copy = StandardErrorCopy(worker[0], terminal[1])
    text = b"".join(b"line %d\n" % number for number in range(MORE_THAN_A_PIPE // 10))
    received = bytearray()

    def read_all() -> None:
        while len(received) < len(text):
            received.extend(os.read(terminal[0], 65536))

    reader = threading.Thread(target=read_all)
    reader.start()
    with os.fdopen(worker[1], "wb") as stream:
        stream.write(text)
    reader.join(HANG_S)
    assert bytes(received) == text
    assert copy.finish() == text[-KEPT_BYTES:].decode().strip()


def test_a_worker_that_writes_a_lot_does_not_wait_for_a_terminal_that_is_not_read(
    worker: Pipe, terminal: Pipe
) -> None:
    copy = StandardErrorCopy(worker[0], terminal[1])
    # It would block for ever, once both pipes are full.
    with os.fdopen(worker[1], "wb") as stream:
        stream.write(b"x" * MORE_THAN_A_PIPE + b"the end")
    assert copy.finish() == "x" * (KEPT_BYTES - 7) + "the end"
    read = os.read(terminal[0], MORE_THAN_A_PIPE)
    assert set(read) == {ord("x")}


def test_dropped_bytes_are_counted_once_the_terminal_is_read_again(
    worker: Pipe, terminal: Pipe
) -> None:
    copy = StandardErrorCopy(worker[0], terminal[1])
    write_all(worker[1], b"x" * MORE_THAN_A_PIPE)
    with ThreadPoolExecutor() as threads:
        received = threads.submit(read_up_to, terminal[0], b"the end")
        write_all(worker[1], b"again\n")
        copy.finish()
        wait_for_the_end_of_the_copy(worker[1])
        write_all(terminal[1], b"the end")
        text = received.result(HANG_S).removesuffix(b"the end")
    dropped = sum(int(notice) for notice in NOTICE.findall(text))
    assert dropped > 0
    assert len(NOTICE.sub(b"", text)) + dropped == MORE_THAN_A_PIPE + len(b"again\n")
    os.close(worker[1])


def write_all(descriptor: int, text: bytes) -> None:
    """Write it all; it blocks while the pipe is full."""
    while text:
        text = text[os.write(descriptor, text) :]


def read_up_to(descriptor: int, end: bytes) -> bytes:
    """What is read until it ends with `end`."""
    text = b""
    while not text.endswith(end):
        text += os.read(descriptor, MORE_THAN_A_PIPE)
    return text


def wait_for_the_end_of_the_copy(write_end: int) -> None:
    """Wait until nobody has the other end of the worker's standard error open any more."""
    poll = select.poll()
    poll.register(write_end, 0)
    assert poll.poll(HANG_S * 1000), "the copy never closed the pipe that it reads"


def test_the_end_is_told_while_a_child_of_the_worker_has_its_standard_error_open(
    worker: Pipe, terminal: Pipe
) -> None:
    copy = StandardErrorCopy(worker[0], terminal[1])
    os.write(worker[1], b"last words\n")
    assert copy.finish() == "last words"
    os.close(worker[1])


def test_text_that_is_not_utf_8_or_has_no_target_is_kept(worker: Pipe) -> None:
    read_end, closed = os.pipe()
    os.close(read_end)
    copy = StandardErrorCopy(worker[0], closed)
    with os.fdopen(worker[1], "wb") as stream:
        stream.write(b"\xff bad\n")
    assert copy.finish() == "\ufffd bad"
    os.close(closed)
