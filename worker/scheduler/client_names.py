"""The names of clients, which may turn out to be another one's while their requests are here.

The service names a connection before it knows the process that holds it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from worker.scheduler.embedding_jobs import EmbeddingJobs
from worker.scheduler.running import RunningRequest
from worker.scheduler.waiting_queue import Waiting, WaitingQueue

# The names that are remembered for requests that are still prepared: more than can be in flight.
MAX_NAMES = 1 << 16


class ClientNames:
    """Renames the clients of requests that wait, run or are still prepared."""

    def __init__(
        self,
        waiting: WaitingQueue,
        embeddings: EmbeddingJobs,
        running: Mapping[int, RunningRequest],
    ) -> None:
        self._waiting = waiting
        self._embeddings = embeddings
        self._running = running
        self._current: OrderedDict[str, str] = OrderedDict()

    def rename(self, former: str, client: str) -> None:
        """The requests of `former` are those of `client`."""
        self._current[former] = client
        if len(self._current) > MAX_NAMES:
            self._current.popitem(last=False)
        self._waiting.rename_client(former, client)
        self._embeddings.rename_client(former, client)
        for running in self._running.values():
            if running.client == former:
                running.prepared = running.prepared.of_client(client)

    def apply(self, prepared: Waiting) -> Waiting:
        """A request that is prepared now, with its client's current name."""
        client = self._current.get(prepared.submit.client)
        return prepared if client is None else prepared.of_client(client)
