"""Requests that wait for their preparation: one queue and one thread for each range of sizes."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.intake.encoded_submit import EncodedRequest
from worker.models.model_config import ModelConfig

logger = logging.getLogger(__name__)

# Smaller prompts count as equal, and so are prepared in the order of their arrival.
EQUAL_BYTES = 4096
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class PreparationJob:
    """A request to prepare; `work_bytes` is the size of its prompt in the work that it makes.

    It waited `opening_s` for its model's files.
    """

    submit: EncodedRequest
    work_bytes: int
    received_at: float
    config: ModelConfig
    opening_s: float = 0.0


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """A job at its place in the queue."""

    rank: int
    number: int
    job: PreparationJob = field(compare=False)


class PreparationQueue:
    """Calls `prepare` with one job after the other, the smallest first, on one thread.

    After `idle_s` without a job, and at its end, the thread calls `on_idle`. It starts with the
    first job.
    """

    def __init__(
        self,
        name: str,
        prepare: Callable[[PreparationJob], None],
        *,
        idle_s: float | None = None,
        on_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._prepare = prepare
        self._idle_s = idle_s
        self._on_idle = on_idle
        self._changed = threading.Condition()
        self._entries: list[Entry] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, job: PreparationJob) -> None:
        """Add a job."""
        rank = max(job.work_bytes, EQUAL_BYTES)
        with self._changed:
            heapq.heappush(self._entries, Entry(rank, next(self._numbers), job))
            self._changed.notify()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread

    def remove(self, is_cancelled: Callable[[PreparationJob], bool]) -> list[PreparationJob]:
        """Remove and return the jobs that are cancelled; one that is being prepared stays."""
        with self._changed:
            removed = [entry.job for entry in self._entries if is_cancelled(entry.job)]
            if removed:
                kept = [entry for entry in self._entries if not is_cancelled(entry.job)]
                heapq.heapify(kept)
                self._entries = kept
        return removed

    def close(self) -> None:
        """Drop all jobs, and wait at most `CLOSE_TIMEOUT_S` for the thread to end."""
        with self._changed:
            self._closed = True
            self._entries.clear()
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            self._prepare(job)
        self._on_idle()

    def _next(self) -> PreparationJob | None:
        """Wait for the next job; None once the queue is closed."""
        with self._changed:
            while not self._entries and not self._closed:
                if not self._changed.wait(self._idle_s):
                    self._on_idle()
                    self._changed.wait_for(lambda: self._entries or self._closed)
            return None if self._closed else heapq.heappop(self._entries).job
