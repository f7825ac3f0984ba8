"""The device call in progress, for the answers to pings.

The engine core writes it. The receiver's thread reads it and sends it as the answer to a
ping, so a decode step costs no message.
"""

from __future__ import annotations

from protocol.messages import Pong

IDLE = Pong()


class DeviceClock:
    """Numbers the device calls. One thread writes, any thread may read."""

    def __init__(self) -> None:
        self._calls = 0
        # Replaced as a whole, so that a reader never sees parts of two calls.
        self._current = IDLE

    def begin(self, reckoned_s: float = 0.0, *, loading: bool = False) -> None:
        """A call begins that is expected to take `reckoned_s`; 0 is unknown."""
        self._calls += 1
        self._current = Pong(self._calls, reckoned_s, loading)

    def end(self) -> None:
        """The engine core waits for work."""
        self._current = IDLE

    def read(self) -> Pong:
        """The call in progress."""
        return self._current
