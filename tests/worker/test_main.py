"""The worker as a process: it answers over its pipe, and it exits as it should."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocol.events import Finished, TextDelta
from protocol.messages import (
    Cancel,
    Fatal,
    Loading,
    ModelsChanged,
    ModelSource,
    Ready,
    Sampling,
    Shutdown,
    Step,
    Submit,
    TextPrompt,
    ToService,
)
from service.supervision.preloads import find_preloads
from service.supervision.process import WORKER_COMMAND, WorkerProcess, worker_environ
from tests.memory_limits import limit_to_held
from tests.waiting import HANG_S
from tests.worker.driver import make_configure

pytestmark = pytest.mark.anyio


class Conversation:
    """A worker process and its messages, in order; an int is its exit status."""

    def __init__(self) -> None:
        self.exited = False
        self.received: asyncio.Queue[ToService | int] = asyncio.Queue()
        self.worker = WorkerProcess(
            WORKER_COMMAND,
            worker_environ(os.environ, find_preloads("auto", "auto")),
            on_message=self.received.put_nowait,
            on_exit=self.received.put_nowait,
        )

    async def next(self) -> ToService | int:
        message = await asyncio.wait_for(self.received.get(), HANG_S)
        self.exited = isinstance(message, int)
        return message

    async def load(self, path: str) -> ToService | int:
        """The first message after the progress of loading."""
        self.worker.send(make_configure([ModelSource("tiny", path)], prefill_step_tokens=256))
        while isinstance(message := await self.next(), Loading | ModelsChanged):
            pass
        return message


@pytest.fixture
async def conversation() -> AsyncIterator[Conversation]:
    conversation = Conversation()
    yield conversation
    conversation.worker.kill()
    while not conversation.exited:
        await conversation.next()


def submit(id: int, max_tokens: int) -> Submit:
    return Submit(
        id=id,
        model="tiny",
        prompt=TextPrompt("hello"),
        sampling=Sampling(0, 0.0),
        max_tokens=max_tokens,
    )


async def test_a_worker_loads_answers_through_an_interrupt_and_exits(
    conversation: Conversation, llama_path: Path
) -> None:
    ready = await conversation.load(str(llama_path))
    assert isinstance(ready, Ready)
    assert ready.memory.active >= (llama_path / "model.safetensors").stat().st_size * 0.9
    # A terminal's: it is for the service.
    os.kill(conversation.worker.pid, signal.SIGINT)
    conversation.worker.send(submit(1, 5))
    conversation.worker.send(Cancel([99]))
    tokens = 0
    while True:
        step = await conversation.next()
        assert isinstance(step, Step)
        tokens += sum(isinstance(event, TextDelta) for event in step.events)
        if any(isinstance(event, Finished) for event in step.events):
            break
    assert tokens == 5
    assert step.stats.memory.active > 0
    conversation.worker.send(Shutdown())
    assert await conversation.next() == 0


async def test_an_idle_worker_sends_nothing_and_exits_at_once_on_sigterm(
    conversation: Conversation, llama_path: Path
) -> None:
    assert isinstance(await conversation.load(str(llama_path)), Ready)
    assert conversation.received.empty()
    conversation.worker.terminate()
    assert await conversation.next() == 0


async def test_a_worker_whose_model_cannot_be_loaded_sends_fatal_and_exits(
    conversation: Conversation, tmp_path: Path
) -> None:
    fatal = await conversation.load(str(tmp_path))
    assert isinstance(fatal, Fatal)
    assert "'tiny' cannot be loaded" in fatal.message
    assert await conversation.next() == 78


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
async def test_a_worker_that_cannot_start_a_thread_sends_fatal_and_exits(
    conversation: Conversation, llama_path: Path
) -> None:
    assert isinstance(await conversation.load(str(llama_path)), Ready)
    limit_to_held(conversation.worker.pid)
    conversation.worker.send(submit(1, 5))
    while isinstance(message := await conversation.next(), Step):
        pass
    assert isinstance(message, Fatal)
    assert "failed" in message.message
    assert await conversation.next() in (70, 71)
