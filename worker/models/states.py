"""What is known of each configured model, and the state that the service is sent."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages import ModelSource, ModelState
from worker.models.model_config import ModelConfig
from worker.models.weight_loader import LoadedModel, WeightLoad

AWAITING_MEMORY = "it waits for memory"


@dataclass(slots=True)
class ModelEntry:
    """One configured model now.

    `requested` is set while the model is to be loaded, `awaiting_memory` while that load
    waits for memory. `reason` says why the last load failed, at `failed_at`. Times are
    seconds of the monotonic clock.
    """

    source: ModelSource
    pinned: bool
    requested: ModelConfig | None = None
    awaiting_memory: bool = False
    reason: str | None = None
    failed_at: float | None = None
    used_at: float = 0.0

    def request(self, config: ModelConfig) -> None:
        """Ask for a load; the last failure no longer counts."""
        self.requested = config
        self.awaiting_memory, self.reason = False, None

    def fail(self, reason: str, now: float) -> None:
        """Record a failed load."""
        self.requested, self.reason, self.failed_at = None, reason, now

    def clear(self) -> None:
        """Forget the request and the failure: the model is unloaded."""
        self.requested = self.reason = self.failed_at = None


def describe_state(
    entry: ModelEntry, loaded: LoadedModel | None, load: WeightLoad | None
) -> ModelState:
    """The state of one model; `load` is the load in progress, if it is of this model."""
    id, pinned = entry.source.id, entry.pinned
    if loaded is not None:
        size = loaded.info.weight_bytes
        return ModelState(
            id=id, status="loaded", pinned=pinned, bytes=size, done_bytes=size, info=loaded.info
        )
    if load is not None:
        return ModelState(
            id=id,
            status="loading",
            pinned=pinned,
            bytes=load.total_bytes,
            done_bytes=load.done_bytes,
        )
    if entry.requested is not None:
        return ModelState(
            id=id,
            status="loading",
            pinned=pinned,
            bytes=entry.requested.file_bytes,
            reason=AWAITING_MEMORY if entry.awaiting_memory else None,
        )
    return ModelState(
        id=id,
        status="unloaded" if entry.failed_at is None else "failed",
        pinned=pinned,
        reason=entry.reason,
    )
