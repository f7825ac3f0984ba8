"""Conversations of agents on a tiny model, and how many tokens of each prompt are computed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from protocol.events import Progress, Started
from protocol.messages import Cancel, ChatPrompt, ModelSource, Sampling, Step, Submit
from tests.models.architectures import making
from tests.models.architectures.table import config_of
from tests.worker.driver import (
    events_of,
    make_config_loader,
    make_configure,
    run_prepared,
    tokens_of,
)
from worker.cache.disk_store import DiskStore
from worker.intake.prepared import PreparedRequest, prepare
from worker.intake.receiver import Work
from worker.models.pool import ModelPool

CONTEXT_TOKENS = 32768
SLICE_TOKENS = 128
PLENTY_BYTES = 1 << 30
GREEDY = Sampling(seed=0, temperature=0.0, ignore_eos=True)
# So that slices do not depend on the speed of the machine.
UNLIMITED_S = 1e6
TEXT = "the quick brown fox reads a list of open tasks in folder src and writes tests for lazy dogs"

Messages = list[dict[str, Any]]


class Turn(NamedTuple):
    """One prompt: its tokens, those cached, and those shared with the closest prompt before."""

    tokens: int
    cached: int
    shared: int

    @property
    def excess(self) -> int:
        """The tokens that were computed though an earlier prompt had them; not the last one."""
        return min(self.shared, self.tokens - 1) - self.cached


def make_long(family: str, folder: Path) -> Path:
    """The family's tiny model with a long context."""
    config = {**config_of(family), "max_position_embeddings": CONTEXT_TOKENS}
    return making.write(folder, making.build(config), config)


class Sessions:
    """Conversations with one model, whose prompt cache they share."""

    def __init__(
        self, path: Path, *, cache_bytes: int = PLENTY_BYTES, disk_store: DiskStore | None = None
    ) -> None:
        self._path = path
        configure = msgspec.structs.replace(
            make_configure([ModelSource(path.name, str(path))], prefill_step_tokens=SLICE_TOKENS),
            prompt_cache_bytes=cache_bytes,
            prefill_slice_s=UNLIMITED_S,
        )
        self.pool = ModelPool(configure, make_config_loader(), disk_store=disk_store)
        self.pool.load_all()
        self.model = self.pool[path.name]
        self.disk_store = disk_store
        self._prompts: list[list[int]] = []
        self._id = 0

    def restart(self, disk_store: DiskStore) -> Sessions:
        """The same model in a new worker, whose prompts are still compared with those before."""
        restarted = Sessions(self._path, disk_store=disk_store)
        restarted._prompts = self._prompts
        return restarted

    def ask(self, messages: Messages, max_tokens: int = 2) -> Turn:
        """Ask for the next answer of a conversation."""
        return self.answer(messages, max_tokens)[0]

    def answer(self, messages: Messages, max_tokens: int) -> tuple[Turn, list[int]]:
        """The same, with the tokens of the answer."""
        request = self._prepare(messages, max_tokens)
        if self.disk_store is not None:
            self.disk_store.fetch(self.model.config.content_key, request.prompt)
        steps = run_prepared(self.pool, [request])
        [started] = [e for e in events_of(steps, self._id) if isinstance(e, Started)]
        turn = Turn(len(request.prompt), started.cached_tokens, self._shared(request.prompt))
        self._prompts.append(request.prompt)
        return turn, tokens_of(steps, self._id)

    def cancel_in_prefill(self, messages: Messages, slices: int) -> int:
        """Cancel a prompt after so many slices; the number of its tokens that were computed."""
        request = self._prepare(messages, 2)
        done: list[int] = []

        def cancel(step: Step) -> list[Work]:
            done.extend(event.done for event in step.events if isinstance(event, Progress))
            return [Cancel([self._id])] if len(done) == slices else []

        run_prepared(self.pool, [request], after_step=cancel)
        return done[-1]

    def _prepare(self, messages: Messages, max_tokens: int) -> PreparedRequest:
        self._id += 1
        submit = Submit(
            self._id, self.model.info.id, ChatPrompt(messages), GREEDY, max_tokens=max_tokens
        )
        request = prepare(
            self.model.config, submit, wants_breakpoints=not self.model.engine.is_trimmable
        )
        assert isinstance(request, PreparedRequest), request
        return request

    def _shared(self, prompt: Sequence[int]) -> int:
        return max((common(prompt, other) for other in self._prompts), default=0)


class Agent:
    """One conversation: instructions, and turns whose answers are scripted."""

    def __init__(self, seed: int, *, instructions: str = "", words: tuple[int, int] = (5, 30)):
        self._random = random.Random(seed)
        self._words = words
        self.system = instructions or f"You are agent {seed}. {self.text(100)}"
        self.history: Messages = []

    def text(self, words: int) -> str:
        """Some text."""
        return " ".join(self._random.choices(TEXT.split(), k=words))

    def say(self, *, marker: str = "", heading: str = "") -> Messages:
        """The next prompt; `marker` ends it and `heading` is in its instructions, now only."""
        question = self.text(self._random.randint(*self._words))
        system = {"role": "system", "content": f"{heading}{self.system}"}
        messages = [system, *self.history, {"role": "user", "content": question + marker}]
        answer = {"role": "assistant", "content": self.text(15)}
        self.history += [{"role": "user", "content": question}, answer]
        return messages


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
