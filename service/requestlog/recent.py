"""The latest generations, for the page: how they went, never what was said."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from service.requestlog.record import RequestRecord

KEPT = 50


class RecentRequests:
    """Remembers a few."""

    def __init__(self) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=KEPT)

    def observe(self, record: RequestRecord) -> None:
        """A request has ended."""
        if record.model is not None:
            # Its prompt may be large, and is nobody's business here.
            record.submits, record.texts = (), {}
            self._records.appendleft(record)

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(self._records)
