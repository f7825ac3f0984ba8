"""Runs the engine core in this process, over real models, until all requests have ended."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from protocol.events import Event, Failed, Finished, Rejected, TextDelta
from protocol.messages import (
    Cancel,
    CommandResult,
    Configure,
    ModelsChanged,
    ModelSource,
    Shutdown,
    Step,
    Submit,
)
from worker.intake.compile_queue import with_grammar
from worker.intake.prepared import PreparedRequest, prepare
from worker.intake.preprocessor import Preprocessor
from worker.intake.receiver import Inbox, Work
from worker.memory.budget import measure
from worker.models.families import build_registry
from worker.models.model_config import ModelConfigLoader
from worker.models.pool import ModelPool
from worker.scheduler.core import EngineCore

AfterStep = Callable[[Step], Iterable[Work]]


def make_pool(
    *paths: Path, max_running: int = 32, prefill_step_tokens: int = 512, context_limit: int = 0
) -> ModelPool:
    """A pool with these models loaded, each under its folder's name."""
    configure = make_configure(
        [ModelSource(path.name, str(path)) for path in paths],
        max_running=max_running,
        prefill_step_tokens=prefill_step_tokens,
        context_limit_tokens=context_limit,
    )
    pool = ModelPool(configure, make_config_loader(context_limit))
    pool.load_all()
    return pool


def make_configure(
    models: list[ModelSource],
    *,
    max_running: int = 8,
    prefill_step_tokens: int = 64,
    context_limit_tokens: int = 0,
    preload: list[str] | None = None,
) -> Configure:
    """A `Configure` with MLX's own memory limits."""
    return Configure(
        models=models,
        max_running=max_running,
        prefill_step_tokens=prefill_step_tokens,
        context_limit_tokens=context_limit_tokens,
        memory_limit_bytes=0,
        cache_limit_bytes=0,
        preload=preload,
    )


def make_config_loader(context_limit: int = 0) -> ModelConfigLoader:
    """A loader with all families."""
    return ModelConfigLoader(build_registry(), context_limit)


def run_loop(
    pool: ModelPool,
    submits: Sequence[Submit],
    *,
    max_running: int = 32,
    after_step: AfterStep = lambda step: (),
    clock: Callable[[], float] = time.monotonic,
) -> list[Step]:
    """Every step until all requests have ended; `after_step` returns work that arrives then."""
    requests = [prepare(pool[submit.model].config, submit) for submit in submits]
    return run_prepared(pool, requests, max_running=max_running, after_step=after_step, clock=clock)


def run_prepared(
    pool: ModelPool,
    requests: Sequence[PreparedRequest | Rejected],
    *,
    max_running: int = 32,
    after_step: AfterStep = lambda step: (),
    clock: Callable[[], float] = time.monotonic,
) -> list[Step]:
    """The same for requests that are prepared."""
    inbox: Inbox = queue.SimpleQueue()
    open_ids = {id_of(request) for request in requests}
    steps: list[Step] = []

    def send(step: Step | ModelsChanged | CommandResult) -> None:
        if not isinstance(step, Step):
            return
        steps.append(step)
        open_ids.difference_update(e.id for e in step.events if is_end(e))
        for work in after_step(step):
            inbox.put(work)
            match work:
                case PreparedRequest(submit):
                    open_ids.add(submit.id)
                case Cancel(ids):
                    open_ids.difference_update(ids)
        if not open_ids:
            inbox.put(Shutdown())

    for request in requests:
        inbox.put(compile_grammar(request))
    preprocessor = Preprocessor(pool.sources, make_config_loader(), inbox)
    core = EngineCore(
        pool,
        preprocessor,
        inbox,
        send=send,
        measure_memory=lambda: measure(0),
        max_running=max_running,
        clock=clock,
    )
    core.run()
    return steps


def id_of(request: PreparedRequest | Rejected) -> int:
    """The request's id."""
    return request.id if isinstance(request, Rejected) else request.submit.id


def compile_grammar(prepared: PreparedRequest | Rejected) -> PreparedRequest | Rejected:
    """The request with its grammar compiled, if it has one."""
    if isinstance(prepared, Rejected) or prepared.source_grammar is None:
        return prepared
    compiled = prepared.config.grammars.compile(prepared.source_grammar)
    return with_grammar(prepared, compiled)


def events_of(steps: Sequence[Step], id: int) -> list[Event]:
    """One request's events in order."""
    return [event for step in steps for event in step.events if event.id == id]


def text_of(steps: Sequence[Step], id: int) -> str:
    """One request's text."""
    return "".join(event.text for event in events_of(steps, id) if isinstance(event, TextDelta))


def tokens_of(steps: Sequence[Step], id: int) -> list[int]:
    """One request's token ids."""
    deltas = [event for event in events_of(steps, id) if isinstance(event, TextDelta)]
    return [token for delta in deltas for token in delta.tokens]


def end_of(steps: Sequence[Step], id: int) -> Event:
    """One request's last event."""
    return events_of(steps, id)[-1]


def is_end(event: Event) -> bool:
    """Whether this is the last event of its request."""
    return isinstance(event, Finished | Rejected | Failed)
