"""Decides whether a worker is hung, by three clocks; none counts time that the service slept.

- Loading, until the worker is ready: the time since its last message.
- Process, from then on, idle too: the time since a ping that is not answered.
- Device, from then on: the time between answers to pings that tell of the same device call.
  They also tell how long it was expected to take, so a slow device is not taken for a hung
  one.
"""

from __future__ import annotations

import msgspec

from protocol.messages import Pong

# How many times longer than expected a device call may take.
RECKONED_TIMES = 10


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long loading may make no progress, and how long a ping or a device call may take.

    `ranks_away_s` is how long requests wait for a rank that is away.

    A device call may take `RECKONED_TIMES` times as long as expected if that is longer than
    `stall_s`. One that reads a part of a model may take `load_timeout_s`.
    """

    load_timeout_s: float
    stall_s: float
    ranks_away_s: float = 90.0


class StallTimer:
    """The time without a sign from the worker.

    It counts in bounded steps: a service that was suspended could not receive messages.
    """

    def __init__(self, now: float) -> None:
        self._last_update = now
        self.seconds = 0.0

    def advance(self, now: float, max_step_s: float) -> None:
        """Add the time since the last call of either method, at most `max_step_s`."""
        self.seconds += min(now - self._last_update, max_step_s)
        self._last_update = now

    def reset(self, now: float) -> None:
        """Start again from 0: a sign arrived, or none is expected."""
        self.seconds = 0.0
        self._last_update = now


class WorkerClocks:
    """The clocks of one worker."""

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        self._timeouts = timeouts
        self._loading = StallTimer(now)
        self._process = StallTimer(now)
        self._since_pong = StallTimer(now)
        self._device_s = 0.0
        self._call = Pong()
        self._awaits_pong = False

    def take_ping(self) -> bool:
        """Whether a ping is to be sent now: each one waits for the answer to the one before."""
        due = not self._awaits_pong
        self._awaits_pong = True
        return due

    def record_message(self, now: float) -> None:
        """A message arrived."""
        self._loading.reset(now)

    def record_pong(self, pong: Pong, now: float) -> None:
        """The answer to a ping arrived."""
        self._awaits_pong = False
        self._process.reset(now)
        is_same = pong.call == self._call.call != 0
        self._device_s = self._device_s + self._since_pong.seconds if is_same else 0.0
        self._since_pong.reset(now)
        self._call = pong

    def advance(self, now: float, max_step_s: float, *, ready: bool) -> str | None:
        """Advance the clocks by at most `max_step_s`; why the worker is hung, if it is."""
        if not ready:
            self._loading.advance(now, max_step_s)
            return self._explain_loading()
        self._since_pong.advance(now, max_step_s)
        self._process.advance(now, max_step_s)
        if not self._awaits_pong:
            self._process.reset(now)
        return self._explain_process() or self._explain_device()

    def _explain_loading(self) -> str | None:
        limit_s = self._timeouts.load_timeout_s
        if self._loading.seconds <= limit_s:
            return None
        return f"no sign of progress for {limit_s:g} s"

    def _explain_process(self) -> str | None:
        limit_s = self._timeouts.stall_s
        return f"no answer to a ping for {limit_s:g} s" if self._process.seconds > limit_s else None

    def _explain_device(self) -> str | None:
        limit_s = self._device_limit_s
        if self._device_s <= limit_s:
            return None
        return f"a device call did not end within {limit_s:g} s"

    @property
    def _device_limit_s(self) -> float:
        if self._call.loading:
            return max(self._timeouts.stall_s, self._timeouts.load_timeout_s)
        return max(self._timeouts.stall_s, RECKONED_TIMES * self._call.reckoned_s)
