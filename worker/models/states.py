"""The state of each configured model, and the message that reports it to the service."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.messages import ModelSource
from protocol.model_states import ModelDefaults, ModelState
from worker.folder.generation_config import NO_DEFAULTS
from worker.models.model_config import ModelConfig
from worker.models.weight_loader import AnyLoadedModel, EmbeddingLoad, WeightLoad

AWAITING_MEMORY = "it waits for memory"


@dataclass(slots=True)
class ModelEntry:
    """The current state of one configured model.

    `requested` is set while a load is requested or in progress, `awaiting_memory` while that
    load waits for memory. `context_length` is None if the files are not on disk, `defaults`
    the sampling that they ask for. `reason` says
    why the last load failed, `failed_at` when. Times
    are in seconds of the monotonic clock.
    """

    source: ModelSource
    pinned: bool
    context_length: int | None = None
    defaults: ModelDefaults = NO_DEFAULTS
    requested: ModelConfig | None = None
    awaiting_memory: bool = False
    reason: str | None = None
    failed_at: float | None = None
    used_at: float = 0.0

    def request(self, config: ModelConfig) -> None:
        """Request a load; drops the reason of the last failure."""
        self.requested = config
        self.awaiting_memory, self.reason = False, None

    def fail(self, reason: str, now: float) -> None:
        """Record a failed load."""
        self.requested, self.reason, self.failed_at = None, reason, now

    def clear(self) -> None:
        """Drop the request and the failure: the model was unloaded."""
        self.requested = self.reason = self.failed_at = None


def describe_state(
    entry: ModelEntry, loaded: AnyLoadedModel | None, load: WeightLoad | EmbeddingLoad | None
) -> ModelState:
    """The `ModelState` of one model; `load` is this model's load in progress, if any."""
    id, pinned, context_length = entry.source.id, entry.pinned, entry.context_length
    if loaded is not None:
        size = loaded.info.weight_bytes
        return ModelState(
            id=id,
            status="loaded",
            pinned=pinned,
            bytes=size,
            done_bytes=size,
            info=loaded.info,
            context_length=loaded.info.context_length,
            defaults=loaded.config.defaults,
            rules=loaded.rules,
        )
    if load is not None:
        return ModelState(
            id=id,
            status="loading",
            pinned=pinned,
            bytes=load.total_bytes,
            done_bytes=load.done_bytes,
            context_length=context_length,
            defaults=entry.defaults,
        )
    if entry.requested is not None:
        return ModelState(
            id=id,
            status="loading",
            pinned=pinned,
            bytes=entry.requested.file_bytes,
            reason=AWAITING_MEMORY if entry.awaiting_memory else None,
            context_length=context_length,
            defaults=entry.defaults,
        )
    return ModelState(
        id=id,
        status="unloaded" if entry.failed_at is None else "failed",
        pinned=pinned,
        reason=entry.reason,
        context_length=context_length,
        defaults=entry.defaults,
    )
