"""`python -m tests.fakes.worker FD`: a worker whose answers are a function of the prompt.

It batches, resumes and cancels like the real worker, with one token every `STEP_S`. A
prompt or a model's source can request a fault (tests/fakes/faults.py): the prompt a fault
during the answer, the source one at the start. With the source `PATH[held 2]` the third
worker does not finish loading before the file `PATH.released` exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import queue
import signal
import struct
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import msgspec

from protocol.channel import Channel, Closed, worker_end
from protocol.embedding import Embed
from protocol.events import Embedded, Event, Finished, Started, TextDelta, Tokenized
from protocol.messages import (
    Cancel,
    Configure,
    Fatal,
    Loading,
    ModelsChanged,
    Ping,
    Pong,
    Prompt,
    Ready,
    RenameClient,
    SetMaxRunning,
    Shutdown,
    Step,
    Submit,
    ToService,
    ToWorker,
)
from protocol.model_states import ModelInfo, ModelState
from protocol.stats import Device, Memory, Stats
from protocol.tokenization import Tokenize
from tests.fakes.faults import fault_now, fault_of, text_of, text_of_prompt
from tests.waiting import wait_for

STEP_S = 0.002
DEFAULT_TOKENS = 16
DIMENSIONS = 4
WEIGHT_BYTES = 1000
CONTEXT_TOKENS = 10**6
EXIT_DEVICE_FAILED = 70
EXIT_ORPHANED = 75
FLUSH_S = 5.0

# A slow device call ends after this many pings. The worker reports that it expects it to take
# this many seconds.
SLOW_PINGS, SLOW_RECKONED_S = 15, 1.0

SIGNALS = {"die": signal.SIGKILL, "abort": signal.SIGABRT, "freeze": signal.SIGSTOP}
FATAL_MESSAGES = {
    "device": "the device failed: [Event::wait] Timed out",
    "memory": "the device failed: [metal::malloc] Attempting to allocate 1 bytes",
    "watchdog": "the device failed: [METAL] Command buffer execution failed: Caused GPU Timeout "
    "Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)",
}
# What the process writes to standard error before it aborts: as Metal's C++ exceptions end it, with
# a path and control characters, after more text than a pipe holds.
ABORT_TEXT = (
    "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command "
    "buffer execution failed: Caused GPU Timeout Error "
    "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)\n\x1b[31min /Users/me/mlxd\x07\n"
)
FLOOD_LINE, FLOOD_LINES = "the worker writes and writes\n", 40_000
# Bytes that are not a message. After writing them the worker hangs, or exits if "truncated".
BROKEN_FRAMES = {
    "hang": b"",
    "hang-mid-message": struct.pack("!i", 1000) + b"half",
    "truncated": struct.pack("!i", 1000) + b"half",
    "garbage": struct.pack("!i", -1) + struct.pack("!Q", 2**62),
    "nonsense": struct.pack("!i", 3) + b"xyz",
}

Inbox = queue.SimpleQueue[Submit | Embed | Cancel | SetMaxRunning | Shutdown]


def token_at(prompt: str, position: int) -> tuple[int, str]:
    """The token and its text at a position of the answer to `prompt`."""
    digest = hashlib.sha256(f"{position} {prompt}".encode()).digest()
    token = int.from_bytes(digest[:2])
    return token, f"{token:04x} "


def answer(prompt: str, tokens: int) -> str:
    """The text of an answer of `tokens` tokens."""
    return "".join(token_at(prompt, position)[1] for position in range(tokens))


def vector_of(text: str) -> list[float]:
    """The vector of a text, or the score of a document."""
    digest = hashlib.sha256(text.encode()).digest()
    return [byte / 256 for byte in digest[:DIMENSIONS]]


def embed(request: Embed) -> list[Event]:
    """All events of a request for vectors or scores."""
    texts = msgspec.msgpack.decode(request.prompt, type=list[str | list[int]])
    width = DIMENSIONS if request.query is None else 1
    rows = [vector_of(str(text))[:width] for text in texts]
    values = b"".join(struct.pack(f"<{width}f", *row) for row in rows)
    tokens = sum(map(len, texts))
    end = Finished(
        id=request.id,
        reason="stop",
        prompt_tokens=tokens,
        completion_tokens=0,
        queue_ms=0.0,
        prefill_ms=0.0,
        decode_ms=0.0,
    )
    return [Started(request.id, tokens), Embedded(request.id, list(range(len(rows))), values), end]


class Row:
    """One request on the fake device."""

    def __init__(self, submit: Submit) -> None:
        self.submit = submit
        self.text = text_of(submit)
        self.position = len(submit.resume)
        self.end = submit.max_tokens or DEFAULT_TOKENS
        expected = [token_at(self.text, position)[0] for position in range(self.position)]
        if expected != submit.resume:
            raise ValueError("resumed with tokens that were never sent")

    def advance(self) -> list[Event]:
        """The next token, and the end after the last one."""
        id = self.submit.id
        token, text = token_at(self.text, self.position)
        self.position += 1
        delta = TextDelta(id, text, [token])
        if self.position < self.end:
            return [delta]
        return [
            delta,
            Finished(
                id=id,
                reason="length",
                prompt_tokens=len(self.text),
                completion_tokens=self.position,
                queue_ms=0.0,
                prefill_ms=0.0,
                decode_ms=0.0,
            ),
        ]


class FakeWorker:
    """A worker that serves one pipe."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: Channel[ToWorker, ToService] = worker_end(connection)
        self._inbox: Inbox = queue.SimpleQueue()
        self._waiting: dict[int, Submit] = {}
        self._running: dict[int, Row] = {}
        self._embeds: dict[int, Embed] = {}
        self._max_running = 1
        # The number of device calls, the one in progress, and whether pings are answered.
        self._calls = 0
        self._call = Pong()
        self._answers_pings = True
        self._pings = threading.Semaphore(0)

    def run(self) -> int:
        """Load, and serve until `Shutdown`; returns the exit code."""
        configure = self._channel.recv()
        assert isinstance(configure, Configure)
        self._max_running = configure.max_running
        for model in configure.models:
            self._channel.send(Loading(model.id, 0, 1))
            self._load(model.source or "")
            self._channel.send(Loading(model.id, 1, 1))
        loaded = [
            ModelInfo(
                id=m.id,
                family="fake",
                context_length=CONTEXT_TOKENS,
                vocabulary_size=2**16,
                weight_bytes=WEIGHT_BYTES,
                load_ms=0.0,
            )
            for m in configure.models
        ]
        states = [
            ModelState(
                id=info.id,
                status="loaded",
                bytes=WEIGHT_BYTES,
                done_bytes=WEIGHT_BYTES,
                info=info,
            )
            for info in loaded
        ]
        self._channel.send(ModelsChanged(states))
        self._channel.send(Ready(Device("fake", "none", 0), Memory()))
        threading.Thread(target=self._read, daemon=True).start()
        while self._receive():
            self._step()
        self._channel.flush(FLUSH_S)
        return 0

    def _load(self, source: str) -> None:
        """Cause the fault that the source requests; its position is the number of the start."""
        fault = fault_of(source)
        if fault is None:
            return
        path = source.partition("[")[0]
        start = count_start(path)
        if start == fault.position or (fault.always and start > fault.position):
            if fault.kind == "held":
                wait_for(Path(f"{path}.released").exists)
            else:
                self._cause(fault.kind)

    def _read(self) -> None:
        try:
            while True:
                message = self._channel.recv()
                if isinstance(message, Ping):
                    self._answer_ping()
                    continue
                if isinstance(message, Tokenize):
                    self._tokenize(message)
                    continue
                if isinstance(message, RenameClient):
                    continue
                assert isinstance(message, Submit | Embed | Cancel | SetMaxRunning | Shutdown)
                self._inbox.put(message)
        except Closed:
            os._exit(EXIT_ORPHANED)

    def _tokenize(self, message: Tokenize) -> None:
        """Send one token for each character; a fault that the text sets occurs each time."""
        prompt = msgspec.msgpack.decode(message.prompt, type=Prompt | None)
        text = "" if prompt is None else text_of_prompt(prompt)
        if (fault := fault_of(text)) is not None:
            self._cause(fault.kind)
        value: object = [ord(character) for character in text]
        if prompt is None:
            value = {"tokenizer_class": "fake"}
        encoded = msgspec.json.encode(value)
        self._channel.send(Tokenized(message.id, CONTEXT_TOKENS, encoded, len(text)))

    def _answer_ping(self) -> None:
        if self._answers_pings:
            self._channel.send(self._call)
        self._pings.release()

    def _wait_for_pings(self, count: int) -> None:
        """Wait until this many more pings have arrived."""
        while self._pings.acquire(blocking=False):
            pass
        for _ in range(count):
            self._pings.acquire()

    def _receive(self) -> bool:
        """Receive messages, for one step's time if the worker is busy; False on `Shutdown`."""
        idle = not (self._running or self._waiting or self._embeds)
        if idle:
            self._call = Pong()
        deadline = time.monotonic() + STEP_S
        while True:
            remaining_s = None if idle else max(0.0, deadline - time.monotonic())
            try:
                message = self._inbox.get(timeout=remaining_s)
            except queue.Empty:
                return True
            idle = False
            match message:
                case Submit():
                    self._waiting |= {each.id: each for each in message.sequences()}
                case Embed():
                    self._embeds[message.id] = message
                case Cancel(ids):
                    for id in ids:
                        self._embeds.pop(id, None)
                        self._waiting.pop(id, None)
                        self._running.pop(id, None)
                case SetMaxRunning(max_running):
                    self._max_running = max_running
                case Shutdown():
                    return False

    def _step(self) -> None:
        self._calls += 1
        self._call = Pong(self._calls)
        events: list[Event] = []
        while self._waiting and len(self._running) < self._max_running:
            id = next(iter(self._waiting))
            row = self._running[id] = Row(self._waiting.pop(id))
            events.append(Started(id, len(row.text)))
        for id, row in list(self._running.items()):
            kind = fault_now(row.submit, row.position)
            if kind is not None:
                self._cause(kind)
            events += row.advance()
            if isinstance(events[-1], Finished):
                del self._running[id]
        for request in self._embeds.values():
            # A fault that its texts set occurs each time.
            if (fault := fault_of(bytes(request.prompt).decode(errors="replace"))) is not None:
                self._cause(fault.kind)
            events += embed(request)
        self._embeds.clear()
        stats = Stats(
            running=len(self._running),
            waiting=len(self._waiting),
            memory=Memory(),
            device_ms=0.0,
            host_ms=0.0,
        )
        self._channel.send(Step(events, stats))

    def _cause(self, kind: str) -> None:
        """Cause a fault; most of them end or stop this process."""
        if kind in SIGNALS:
            os.kill(os.getpid(), SIGNALS[kind])
        elif kind in FATAL_MESSAGES:
            self._fail(FATAL_MESSAGES[kind])
        elif kind == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            hang()
        elif kind == "abort-loudly":
            sys.stderr.write(FLOOD_LINE * FLOOD_LINES + ABORT_TEXT)
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGABRT)
        elif kind == "slow":
            self._call = Pong(self._calls, SLOW_RECKONED_S)
            self._wait_for_pings(SLOW_PINGS)
        elif kind == "truncated":
            self._write(BROKEN_FRAMES[kind])
            os._exit(1)
        else:
            self._write(BROKEN_FRAMES[kind])
            hang()

    def _fail(self, message: str) -> NoReturn:
        self._channel.send(Fatal(message))
        self._channel.flush(FLUSH_S)
        os._exit(EXIT_DEVICE_FAILED)

    def _write(self, frame: bytes) -> None:
        """Write bytes without the channel, after all messages that are queued."""
        self._answers_pings = not frame
        self._channel.flush(FLUSH_S)
        os.write(self._connection.fileno(), frame)


def count_start(path: str) -> int:
    """How many workers were started with this path before; each start creates a file."""
    for start in itertools.count():
        with contextlib.suppress(FileExistsError):
            os.close(os.open(f"{path}.{start}", os.O_CREAT | os.O_EXCL))
            return start
    raise AssertionError


def hang() -> NoReturn:
    """Block forever."""
    while True:
        signal.pause()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(FakeWorker(Connection(int(sys.argv[1]))).run())
