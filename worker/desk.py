"""Prepares prompts, and opens the models' files for it beside the thread that reads the pipe.

A prompt for a model whose files are open is prepared at once. Opening takes as long
as reading a tokenizer, so it is done on a thread of its own, and the prompts that
come for that model meanwhile wait there: nothing else does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from protocol.grammars import Grammar, Lark
from protocol.messages import ModelSource, Rejected, Submit
from worker.blueprint import Blueprint, LoadError
from worker.cache_files import CacheFiles
from worker.grammars.constraint import CompiledGrammar
from worker.refusal import PromptError

logger = logging.getLogger(__name__)

MODEL_LOAD_FAILED = "model_load_failed"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request whose prompt is token ids that fit the model's context.

    `started` tells that the service knows of its start: it was on the device before.
    `grammar` is of the whole answer, or of the calls that are `offered` to the model.
    """

    submit: Submit
    prompt: list[int]
    max_tokens: int
    echo: str
    received_at: float
    blueprint: Blueprint
    started: bool = False
    borders: Sequence[int] = ()
    grammar: CompiledGrammar | None = None
    offered: Lark | None = None

    @property
    def wanted(self) -> Grammar | None:
        """The grammar to compile for it."""
        return self.submit.grammar or self.offered

    @property
    def context(self) -> list[int]:
        """The token ids to prefill: the prompt and what was generated of the answer before."""
        return self.prompt + self.submit.resume


@dataclass(frozen=True, slots=True)
class Opened:
    """A model's files were read because it is to be loaded, whether or not a request waits."""

    blueprint: Blueprint


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A model's files cannot be read."""

    model: str
    reason: str


Outcome = Prepared | Rejected | Opened | Unreadable


class Inbox(Protocol):
    """Where outcomes go."""

    def put(self, item: Outcome, /) -> None: ...


class Opens(Protocol):
    """What reads a model's files."""

    def draw(self, source: ModelSource, *, download: bool) -> Blueprint: ...


@dataclass(slots=True)
class Opening:
    """A model whose files are being read, and what waits for them."""

    submits: dict[int, Submit] = field(default_factory=dict)
    tell: bool = False
    # The request whose prompt is being prepared, and whether it was cancelled meanwhile.
    in_hand: int | None = None
    withdrawn: bool = False


class Desk:
    """Open models by id. `take` and `cancel` are the intake's, the others the loop's."""

    def __init__(
        self,
        sources: Iterable[ModelSource],
        opens: Opens,
        inbox: Inbox,
        files: CacheFiles | None = None,
    ) -> None:
        self._sources = {source.id: source for source in sources}
        self._opens = opens
        self._inbox = inbox
        self._files = files
        self._lock = threading.Lock()
        self._open: dict[str, Blueprint] = {}
        self._opening: dict[str, Opening] = {}

    def put_down(self, blueprint: Blueprint) -> None:
        """This model is open."""
        self._open[blueprint.id] = blueprint

    def take(self, submit: Submit) -> None:
        """Prepare this request, now or when its model is open."""
        with self._lock:
            blueprint = self._open.get(submit.model)
            if blueprint is None:
                self._opening_of(submit.model).submits[submit.id] = submit
                return
        self._inbox.put(self._prepare(blueprint, submit))

    def cancel(self, ids: Collection[int]) -> None:
        """Forget these requests where they wait for their model."""
        with self._lock:
            for opening in self._opening.values():
                for id in ids:
                    opening.submits.pop(id, None)
                opening.withdrawn |= opening.in_hand in ids

    def open(self, model: str) -> None:
        """Read this model's files, unless they are, and tell."""
        with self._lock:
            blueprint = self._open.get(model)
            if blueprint is None:
                self._opening_of(model).tell = True
                return
        self._inbox.put(Opened(blueprint))

    def close(self, model: str) -> None:
        """Forget this model's files: what is on disk then is read the next time."""
        with self._lock:
            closed = self._open.pop(model, None)
        if closed is not None:
            closed.grammars.close()

    def _opening_of(self, model: str) -> Opening:
        """What waits for this model, whose opening is begun if it is not."""
        opening = self._opening.get(model)
        if opening is None:
            opening = self._opening[model] = Opening()
            threading.Thread(
                target=self._open_model, args=[model], name=f"open-{model}", daemon=True
            ).start()
        return opening

    def _open_model(self, model: str) -> None:
        try:
            blueprint = self._opens.draw(self._sources[model], download=False)
        except LoadError as error:
            return self._fail(model, str(error))
        while (submit := self._next(model, blueprint)) is not None:
            self._hand_over(model, self._prepare(blueprint, submit))
        return None

    def _prepare(self, blueprint: Blueprint, submit: Submit) -> Outcome:
        prepared = prepare(blueprint, submit)
        if self._files is not None and isinstance(prepared, Prepared):
            self._files.fetch(blueprint.content_key, prepared.context)
        return prepared

    def _next(self, model: str, blueprint: Blueprint) -> Submit | None:
        """The next request that waits for this model; after the last one it is open."""
        with self._lock:
            opening = self._opening[model]
            if opening.tell:
                self._inbox.put(Opened(blueprint))
                opening.tell = False
            if not opening.submits:
                del self._opening[model]
                self._open[model] = blueprint
                return None
            opening.in_hand = next(iter(opening.submits))
            opening.withdrawn = False
            return opening.submits.pop(opening.in_hand)

    def _hand_over(self, model: str, outcome: Outcome) -> None:
        with self._lock:
            opening = self._opening[model]
            opening.in_hand = None
            if not opening.withdrawn:
                self._inbox.put(outcome)

    def _fail(self, model: str, reason: str) -> None:
        logger.error("%s", reason)
        with self._lock:
            opening = self._opening.pop(model)
            self._inbox.put(Unreadable(model, reason))
            for id in opening.submits:
                self._inbox.put(Rejected(id, MODEL_LOAD_FAILED, reason, "model"))


def prepare(blueprint: Blueprint, submit: Submit) -> Prepared | Rejected:
    """The request with its prompt as token ids, or why it cannot be served."""
    received_at = time.monotonic()
    try:
        prompts = blueprint.prompts
        prompts.check_sampling(submit.sampling)
        prompt = prompts.build(submit.prompt)
        max_tokens = prompts.limit(submit, len(prompt))
        echo = prompts.echo(submit.prompt) if submit.echo else ""
        borders = prompts.borders(submit.prompt, prompt)
        submit = blueprint.answers.enforce_calls(submit, prompt)
        held = blueprint.grammars.vocabulary is not None
        offered = blueprint.answers.offered_calls(submit) if held else None
    except PromptError as error:
        return Rejected(submit.id, error.code, error.message, error.param)
    except Exception:
        # One request's prompt must not end the thread that serves all of them.
        logger.exception("request %d: its prompt could not be prepared", submit.id)
        return Rejected(submit.id, "internal_error", "The prompt could not be prepared.")
    return Prepared(
        submit,
        prompt,
        max_tokens,
        echo,
        received_at,
        blueprint,
        borders=borders,
        offered=offered,
    )
