"""Runs the worker's own loop in this process, over real models, until all requests ended."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from protocol.messages import (
    Cancel,
    Configure,
    Delta,
    Done,
    Event,
    Failed,
    Finished,
    Models,
    ModelSource,
    Rejected,
    Shutdown,
    Step,
    Submit,
)
from worker.adapters import build_registry
from worker.desk import Desk, Prepared, prepare
from worker.grammars.desk import with_grammar
from worker.intake import Inbox, Work
from worker.loop import Loop
from worker.memory import measure
from worker.pool import Pool

AfterStep = Callable[[Step], Iterable[Work]]


def make_pool(
    *paths: Path, max_running: int = 32, prefill_step_tokens: int = 512, context_limit: int = 0
) -> Pool:
    """These models loaded, each under its folder's name."""
    sources = [ModelSource(path.name, str(path)) for path in paths]
    configure = Configure(sources, max_running, prefill_step_tokens, context_limit, 0, 0)
    pool = Pool(configure, build_registry(), lambda loading: None)
    pool.load_all()
    return pool


def run_loop(
    pool: Pool,
    submits: Sequence[Submit],
    *,
    max_running: int = 32,
    after_step: AfterStep = lambda step: (),
) -> list[Step]:
    """Every step until each request ended; `after_step` gives work that comes in meanwhile."""
    inbox: Inbox = queue.SimpleQueue()
    open_ids = {submit.id for submit in submits}
    steps: list[Step] = []

    def emit(step: Step | Models | Done) -> None:
        if not isinstance(step, Step):
            return
        steps.append(step)
        open_ids.difference_update(e.id for e in step.events if is_end(e))
        for work in after_step(step):
            inbox.put(work)
            match work:
                case Prepared(submit):
                    open_ids.add(submit.id)
                case Cancel(ids):
                    open_ids.difference_update(ids)
        if not open_ids:
            inbox.put(Shutdown())

    for submit in submits:
        inbox.put(make_ready(prepare(pool[submit.model].blueprint, submit)))
    desk = Desk(pool.sources, pool.draughtsman, inbox)
    Loop(pool, desk, inbox, emit, lambda: measure(0), max_running).run()
    return steps


def make_ready(prepared: Prepared | Rejected) -> Prepared | Rejected:
    """The request with its grammar, where it asks for one."""
    if isinstance(prepared, Rejected) or prepared.wanted is None:
        return prepared
    compiled = prepared.blueprint.grammars.compile(prepared.wanted)
    return with_grammar(prepared, compiled)


def events_of(steps: Sequence[Step], id: int) -> list[Event]:
    """One request's events in order."""
    return [event for step in steps for event in step.events if event.id == id]


def text_of(steps: Sequence[Step], id: int) -> str:
    """One request's text."""
    return "".join(event.text for event in events_of(steps, id) if isinstance(event, Delta))


def tokens_of(steps: Sequence[Step], id: int) -> list[int]:
    """One request's token ids."""
    deltas = [event for event in events_of(steps, id) if isinstance(event, Delta)]
    return [token for delta in deltas for token in delta.tokens]


def end_of(steps: Sequence[Step], id: int) -> Event:
    """One request's last event."""
    return events_of(steps, id)[-1]


def is_end(event: Event) -> bool:
    """Whether nothing follows for this request."""
    return isinstance(event, Finished | Rejected | Failed)
