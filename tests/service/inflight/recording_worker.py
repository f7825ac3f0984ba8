"""A worker that a registry sends to, and that nothing comes back from."""

from __future__ import annotations

from protocol.messages import ToWorker
from service.schema.health import HealthStatus


class RecordingWorker:
    """Records the messages that it gets; the tests send the events."""

    def __init__(self) -> None:
        self.status: HealthStatus = "healthy"
        self.failure: str | None = None
        self.max_running = 8
        self.sent: list[ToWorker] = []

    def send(self, message: ToWorker) -> None:
        self.sent.append(message)

    async def wait_loaded(self, timeout_s: float) -> None:
        self.status = "healthy"
