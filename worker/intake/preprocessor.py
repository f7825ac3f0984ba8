"""The preprocessor: prepares submitted requests for the scheduler.

A request passes three stages: its model's files are read ("opened"), its prompt is turned
into token ids, and its grammar is compiled. If the model is open, the prompt is prepared at
once, on the caller's thread. Opening a model takes as long as reading its tokenizer, so each
model is opened on a thread of its own, and only the requests for that model wait. A
cancelled request is dropped at whatever stage it is.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from protocol.events import Rejected
from protocol.messages import ModelSource, Submit
from worker.cache.disk_store import DiskStore
from worker.intake.compile_queue import CompileQueue, with_grammar
from worker.intake.prepared import (
    ModelOpened,
    ModelOpenFailed,
    PreparationResult,
    PreparedRequest,
    RequestDeferred,
    for_sequence,
    prepare,
)
from worker.models.model_config import LoadError, ModelConfig

logger = logging.getLogger(__name__)


class Inbox(Protocol):
    """The destination of the results."""

    def put(self, item: PreparationResult, /) -> None: ...


class ConfigLoader(Protocol):
    """Reads a model's files."""

    def load(self, source: ModelSource, *, download: bool) -> ModelConfig: ...


@dataclass(slots=True)
class ModelOpening:
    """A model whose files are being read, and the requests that wait for them.

    With `announce` a `ModelOpened` is delivered once they are read.
    """

    submits: deque[Submit] = field(default_factory=deque)
    announce: bool = False


class Preprocessor:
    """Requests in preparation, by id. Each method may be called from any thread."""

    def __init__(
        self,
        sources: Iterable[ModelSource],
        config_loader: ConfigLoader,
        inbox: Inbox,
        disk_store: DiskStore | None = None,
    ) -> None:
        self._sources = {source.id: source for source in sources}
        self._config_loader = config_loader
        self._inbox = inbox
        self._disk_store = disk_store
        self._lock = threading.Lock()
        self._open: dict[str, ModelConfig] = {}
        self._openings: dict[str, ModelOpening] = {}
        self._wants_breakpoints: set[str] = set()
        # The ids of requests that are neither delivered nor cancelled.
        self._pending: set[int] = set()
        self._compile_queue = CompileQueue(self._is_pending, self._deliver)

    def __len__(self) -> int:
        """How many requests are in preparation."""
        return len(self._pending)

    def register(self, config: ModelConfig, *, wants_breakpoints: bool) -> None:
        """Keep a loaded model open; with `wants_breakpoints` its prompts get cache breakpoints."""
        with self._lock:
            if config.id not in self._openings:
                self._open[config.id] = config
            if wants_breakpoints:
                self._wants_breakpoints.add(config.id)
            else:
                self._wants_breakpoints.discard(config.id)

    def submit(self, submit: Submit) -> None:
        """Prepare this request, now or as soon as its model is open."""
        with self._lock:
            self._pending.update(ids_of(submit))
            config = self._open.get(submit.model)
            if config is None:
                self._opening_of(submit.model).submits.append(submit)
                self._inbox.put(RequestDeferred(submit.id))
                return
        self._prepare(config, submit)

    def cancel(self, ids: Collection[int]) -> None:
        """Drop these requests; unknown ids are ignored."""
        with self._lock:
            self._pending.difference_update(ids)

    def open(self, model: str) -> None:
        """Open this model unless it is open, then deliver a `ModelOpened`."""
        with self._lock:
            config = self._open.get(model)
            if config is None:
                self._opening_of(model).announce = True
                return
        self._inbox.put(ModelOpened(config))

    def close(self, model: str) -> None:
        """Drop what was read of this model's files; the next request reads them again."""
        with self._lock:
            config = self._open.pop(model, None)
        if config is not None:
            config.grammars.close()

    # ------------------------------------------------------------ opening

    def _opening_of(self, model: str) -> ModelOpening:
        """The opening of this model in progress; starts one if there is none."""
        opening = self._openings.get(model)
        if opening is None:
            opening = self._openings[model] = ModelOpening()
            threading.Thread(
                target=self._open_model, args=[model], name=f"open-{model}", daemon=True
            ).start()
        return opening

    def _open_model(self, model: str) -> None:
        try:
            config = self._config_loader.load(self._sources[model], download=False)
        except LoadError as error:
            return self._fail_opening(model, str(error))
        while (submit := self._next_submit(model, config)) is not None:
            self._prepare(config, submit)
        return None

    def _next_submit(self, model: str, config: ModelConfig) -> Submit | None:
        """The next request that waits for this model; after the last one the model is open."""
        with self._lock:
            opening = self._openings[model]
            if opening.announce:
                self._inbox.put(ModelOpened(config))
                opening.announce = False
            while opening.submits:
                submit = opening.submits.popleft()
                if not self._pending.isdisjoint(ids_of(submit)):
                    return submit
            del self._openings[model]
            self._open[model] = config
            return None

    def _fail_opening(self, model: str, reason: str) -> None:
        logger.error("%s", reason)
        with self._lock:
            opening = self._openings.pop(model)
            self._inbox.put(ModelOpenFailed(model, reason))
        for submit in opening.submits:
            self._deliver(submit, Rejected(submit.id, "model_load_failed", reason, "model"))

    # ------------------------------------------------------------ preparing and delivering

    def _prepare(self, config: ModelConfig, submit: Submit) -> None:
        wants_breakpoints = config.id in self._wants_breakpoints
        result = prepare(config, submit, wants_breakpoints=wants_breakpoints)
        if isinstance(result, PreparedRequest):
            self._fetch_prefixes(result)
            if result.source_grammar is not None:
                compiled = config.grammars.cached(result.source_grammar)
                if compiled is None:
                    self._inbox.put(RequestDeferred(submit.id))
                    self._compile_queue.put(result)
                    return
                result = with_grammar(result, compiled)
        self._deliver(submit, result)

    def _fetch_prefixes(self, prepared: PreparedRequest) -> None:
        """Start reading the stored prefixes of the prompt and of what follows it in a resume."""
        if self._disk_store is not None:
            first, *others = prepared.submit.sequences()
            for each in [first, *(other for other in others if other.resume)]:
                tokens = prepared.prompt + each.resume
                self._disk_store.fetch(prepared.config.content_key, tokens)

    def _is_pending(self, submit: Submit) -> bool:
        """Whether any sequence of this request is still to be delivered."""
        with self._lock:
            return not self._pending.isdisjoint(ids_of(submit))

    def _deliver(self, submit: Submit, result: PreparedRequest | Rejected) -> None:
        """Put each sequence of a request into the inbox, unless it was cancelled."""
        with self._lock:
            for sequence in submit.sequences():
                if sequence.id in self._pending:
                    self._pending.discard(sequence.id)
                    self._inbox.put(for_sequence(result, sequence))


def ids_of(submit: Submit) -> list[int]:
    """The ids of all sequences of a request."""
    return [submit.id, *(sibling.id for sibling in submit.siblings)]
