"""Commands of an operator to the model pool: load, unload, pin. Each gets one result."""

from __future__ import annotations

from collections.abc import Callable

from protocol.error_codes import ErrorCode
from protocol.messages import Command, CommandResult, Load, Pin, Unload
from worker.intake.prepared import ModelOpened, ModelOpenFailed
from worker.intake.preprocessor import Preprocessor
from worker.models.pool import ModelPool
from worker.scheduler.waiting_queue import WaitingQueue

ModelCommand = Command | ModelOpened | ModelOpenFailed


class ModelCommands:
    """Executes commands; `send_result` gets each result, which has its command's ticket.

    A load that gets no memory within `wait_s` fails.
    """

    def __init__(
        self,
        pool: ModelPool,
        waiting: WaitingQueue,
        preprocessor: Preprocessor,
        send_result: Callable[[CommandResult], None],
        *,
        wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._waiting = waiting
        self._preprocessor = preprocessor
        self._send_result = send_result
        self._wait_s = wait_s
        self._clock = clock
        self._loads: dict[str, list[int]] = {}
        self._requested_at: dict[str, float] = {}

    def __len__(self) -> int:
        """How many models have pending load commands."""
        return len(self._loads)

    def __contains__(self, model: str) -> bool:
        return model in self._loads

    def execute(self, command: ModelCommand) -> None:
        """Execute a command; a load is only begun, and goes on once the model is opened."""
        match command:
            case Load(ticket, model):
                self._begin_load(ticket, model)
            case Unload(ticket, model):
                self._send_result(self._unload(ticket, model))
            case Pin(ticket, model, pinned):
                self._pool.pin(model, pinned=pinned)
                self._send_result(CommandResult(ticket))
            case ModelOpened(config):
                self._pool.request_load(config)
            case ModelOpenFailed(model, reason):
                self._pool.loads.fail(model, reason)
                self.finish_load(model, "model_load_failed", reason)

    def finish_load(
        self, model: str, code: ErrorCode | None = None, reason: str | None = None
    ) -> None:
        """Send the results of this model's load commands; without `code` they succeeded."""
        self._requested_at.pop(model, None)
        for ticket in self._loads.pop(model, ()):
            self._send_result(CommandResult(ticket, code, reason))

    def expire(self) -> None:
        """Fail the load commands that got no memory within `wait_s`."""
        for model, requested_at in list(self._requested_at.items()):
            loading = self._pool.loads.load_of(model) is not None
            if self._clock() >= requested_at + self._wait_s and not loading:
                reason = self._pool.explain_shortage(model)
                self.finish_load(model, "insufficient_memory", reason)
                if self._waiting.peek(model) is None:
                    self._pool.loads.drop_request(model)

    def _begin_load(self, ticket: int, model: str) -> None:
        if model in self._pool:
            self._send_result(CommandResult(ticket))
            return
        self._loads.setdefault(model, []).append(ticket)
        self._requested_at.setdefault(model, self._clock())
        self._preprocessor.open(model)

    def _unload(self, ticket: int, model: str) -> CommandResult:
        if not self._pool.unload(model, self._waiting):
            return CommandResult(ticket, "model_busy", f"{model} is in use or is being loaded.")
        self._preprocessor.close(model)
        return CommandResult(ticket)
