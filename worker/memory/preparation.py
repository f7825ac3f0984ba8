"""The memory of the preparation processes and of the prompts that wait for them.

The engine core publishes what is available; the threads of the intake reserve parts of it.
"""

from __future__ import annotations

import threading

UNPUBLISHED = 1 << 62


class PreparationMemory:
    """Reservations in bytes, by the name of their owner. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: dict[str, int] = {}
        # The sum of all reservations. It is read several times a step.
        self.reserved_bytes = 0
        self._available_bytes = UNPUBLISHED

    def publish(self, available_bytes: int) -> None:
        """Set how many bytes are available beside all present reservations."""
        with self._lock:
            self._available_bytes = available_bytes

    def reserve(self, owner: str, nbytes: int) -> bool:
        """Set this owner's reservation; False, and no change, if that is not available."""
        with self._lock:
            additional = nbytes - self._bytes.get(owner, 0)
            if additional > max(0, self._available_bytes):
                return False
            self._bytes[owner] = nbytes
            self.reserved_bytes += additional
            self._available_bytes -= additional
            return True

    def reserve_at_least(self, owner: str, nbytes: int) -> bool:
        """Raise this owner's reservation to `nbytes`; False if that is not available."""
        with self._lock:
            enough = self._bytes.get(owner, 0) >= nbytes
        return enough or self.reserve(owner, nbytes)
