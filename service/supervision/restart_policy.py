"""Decides when the next worker starts, and how much it does at once: pure state machines."""

from __future__ import annotations

from collections import deque

import msgspec

from protocol.messages import Configure

# How much shorter than configured a slice of prefill becomes at most.
MAX_DIVISOR = 8


class RestartLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of restarts.

    The back-off doubles with each exit, from `initial_back_off_s` to `max_back_off_s`. A
    worker that was ready for `healthy_after_s` is healthy: its exit counts as the first one.
    After `exits_before_failure` exits within `window_s` the service has failed: no request
    waits for the next worker, which starts after `slow_retry_s`.
    """

    initial_back_off_s: float = 0.05
    max_back_off_s: float = 10.0
    healthy_after_s: float = 10.0
    exits_before_failure: int = 5
    window_s: float = 300.0
    slow_retry_s: float = 30.0


class RestartPolicy:
    """The recent exits. `max_running` is the current limit of running sequences of a model."""

    def __init__(self, limits: RestartLimits, max_running: int) -> None:
        self._limits = limits
        self._exits_at: deque[float] = deque()
        self._configured_max_running = max_running
        self.max_running = max_running

    @property
    def too_many_exits(self) -> bool:
        """Whether workers exit too often for a request to wait for the next one."""
        return len(self._exits_at) >= self._limits.exits_before_failure

    @property
    def delay_s(self) -> float:
        """The time to wait before the next start."""
        if self.too_many_exits:
            return self._limits.slow_retry_s
        doublings = max(0, len(self._exits_at) - 1)
        back_off_s = self._limits.initial_back_off_s * 2.0**doublings
        return min(back_off_s, self._limits.max_back_off_s)

    def record_exit(self, now: float, ready_s: float) -> None:
        """Count the exit of a worker that was ready for `ready_s`."""
        if ready_s >= self._limits.healthy_after_s:
            self._exits_at.clear()
        self._exits_at.append(now)
        while self._exits_at[0] < now - self._limits.window_s:
            self._exits_at.popleft()

    def clear(self) -> None:
        """Forget the exits: their cause was found and is removed."""
        self._exits_at.clear()

    def halve_max_running(self) -> bool:
        """Halve `max_running`, down to 1; whether it changed."""
        halved = max(1, self.max_running // 2)
        changed, self.max_running = halved != self.max_running, halved
        return changed

    def raise_max_running(self, healthy_s: float) -> bool:
        """Double `max_running` if the worker was healthy for long enough; whether it changed."""
        if self.max_running == self._configured_max_running:
            return False
        if healthy_s < self._limits.healthy_after_s:
            return False
        self.max_running = min(2 * self.max_running, self._configured_max_running)
        return True


class PrefillShortening:
    """Shorter slices of prefill for the workers after one whose device call took too long.

    Each such exit halves the slices' tokens, rows and seconds, down to an eighth. They stay
    short until the service ends: a device that was too slow once is too slow again.
    """

    def __init__(self) -> None:
        self._divisor = 1
        # Why the slices were shortened; None while they are not.
        self.reason: str | None = None

    def halve(self, reason: str) -> bool:
        """Halve the slices of the next worker; whether they changed."""
        changed = self._divisor < MAX_DIVISOR
        self._divisor = min(2 * self._divisor, MAX_DIVISOR)
        self.reason = reason
        return changed

    def apply_to(self, configure: Configure) -> Configure:
        """The configuration with the current slices."""
        return msgspec.structs.replace(
            configure,
            prefill_step_tokens=max(1, configure.prefill_step_tokens // self._divisor),
            prefill_rows=max(1, configure.prefill_rows // self._divisor),
            prefill_slice_s=configure.prefill_slice_s / self._divisor,
        )
