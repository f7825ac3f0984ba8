"""Where prepared requests wait while their grammars are compiled; all others pass at once."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Collection
from dataclasses import replace

from protocol.grammars import JsonObject, JsonSchema
from protocol.messages import Rejected, Submit, ToolUse
from worker.desk import Inbox, Outcome, Prepared
from worker.grammars.compiler import Outcome as Compiled
from worker.grammars.constraint import GrammarError

logger = logging.getLogger(__name__)

INVALID_GRAMMAR = "invalid_grammar"
# Deeper than the stack of the check, so that what passed there passes here.
STACK_BYTES = 16 * 1024 * 1024


class GrammarDesk:
    """In front of the loop's inbox. `cancel` must come before the loop hears of it."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._lock = threading.Lock()
        self._pending: dict[int, Prepared] = {}
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def put(self, item: Outcome, /) -> None:
        """Pass it on, at once or with its compiled grammar."""
        if not isinstance(item, Prepared) or item.wanted is None:
            self._inbox.put(item)
        elif (known := item.blueprint.grammars.known(item.wanted)) is not None:
            self._inbox.put(with_grammar(item, known))
        else:
            self._wait(item)

    def cancel(self, ids: Collection[int]) -> None:
        """Forget these requests where they wait."""
        with self._lock:
            for id in ids:
                self._pending.pop(id, None)

    def _wait(self, prepared: Prepared) -> None:
        with self._lock:
            self._pending[prepared.submit.id] = prepared
            self._queue.put(prepared.submit.id)
            if self._thread is None:
                self._thread = start_deep(self._run)

    def _run(self) -> None:
        while True:
            id = self._queue.get()
            with self._lock:
                prepared = self._pending.get(id)
            if prepared is None:
                continue
            assert prepared.wanted is not None
            outcome = prepared.blueprint.grammars.compile(prepared.wanted)
            with self._lock:
                if self._pending.pop(id, None) is not None:
                    self._inbox.put(with_grammar(prepared, outcome))


def with_grammar(prepared: Prepared, outcome: Compiled) -> Prepared | Rejected:
    """The request with its grammar, or its refusal; calls only offered go without one, too."""
    if not isinstance(outcome, GrammarError):
        return replace(prepared, grammar=outcome)
    if prepared.submit.grammar is None:
        logger.warning("calls are not held to their schemas: %s", outcome)
        return replace(prepared, offered=None)
    param = param_of(prepared.submit, readable=prepared.blueprint.grammars.vocabulary is not None)
    message = f"`{param}` cannot be enforced: {outcome}."
    return Rejected(prepared.submit.id, INVALID_GRAMMAR, message, param)


def param_of(submit: Submit, *, readable: bool) -> str:
    """The request's parameter that asked for its grammar.

    Calls that must come have one by `tool_choice`, of what `tools` say: where no grammar
    is `readable` for the model, only the choice is wrong.
    """
    match submit:
        case Submit(calls=ToolUse(required=True)):
            return "tools" if readable else "tool_choice"
        case Submit(grammar=JsonObject() | JsonSchema()):
            return "response_format"
        case _:
            return "structured_outputs"


def start_deep(run: object) -> threading.Thread:
    """A thread with a deep stack."""
    before = threading.stack_size(STACK_BYTES)
    try:
        thread = threading.Thread(target=run, name="grammars", daemon=True)  # type: ignore[arg-type]
        thread.start()
    finally:
        threading.stack_size(before)
    return thread
