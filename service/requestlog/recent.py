"""The latest generations, without their content, for the page."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from service.requestlog.record import RequestRecord

MAX_RECORDS = 50


class RecentRequests:
    """The records of the latest generations, the newest first."""

    def __init__(self) -> None:
        self._records: deque[RequestRecord] = deque(maxlen=MAX_RECORDS)

    def observe(self, record: RequestRecord) -> None:
        """Store a request that has ended, without its content."""
        if record.model is not None:
            # The prompt may be large, and it is private.
            record.submits, record.texts = (), {}
            self._records.appendleft(record)

    def __iter__(self) -> Iterator[RequestRecord]:
        return iter(self._records)
