"""The requests for vectors and scores: admitted in fair turns, computed in slices, preempted.

They wait in the same queue as the others, by model and client. A model's running requests are
its places: a client above its share yields to others that wait, and keeps what is computed.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from protocol.events import Embedded, Event, Failed, Finished, PromptUse, Started
from worker.embedding_batches.engine import Computed, Values
from worker.engine.batches.model_errors import FailedRow
from worker.intake.prepared_texts import PreparedEmbedding, name_of, too_long
from worker.models.pool import ModelPool
from worker.models.weight_loader import LoadedEmbedder
from worker.outputs.output_processor import AnswerRecord
from worker.scheduler.preemption.prefill_share import PrefillShare
from worker.scheduler.preemption.shares import Place, preempt_for_shares
from worker.scheduler.waiting_queue import WaitingQueue

NOT_NUMBERS = "The model gave values that are no numbers (NaN or infinite)."
# As torch's `normalize`, so that a vector of zeros stays one.
LEAST_LENGTH = 1e-12
# A shorter slice would take longer to begin than to compute.
MIN_SLICE_S = 0.002
# Their name among the models whose prompts take turns.
TURN_OF_TEXTS = "texts"


@dataclasses.dataclass(slots=True)
class RunningEmbedding:
    """One request whose texts are in its model's engine, and where its time went."""

    model: LoadedEmbedder
    prepared: PreparedEmbedding
    record: AnswerRecord

    @property
    def id(self) -> int:
        """The request's id."""
        return self.prepared.submit.id

    def finish(self, now: float) -> Finished:
        """Its end at `now`. A text that is computed is not computed again."""
        record, tokens = self.record, self.prepared.prompt_tokens
        record.enter("prefill", now)
        return Finished(
            id=self.id,
            reason="stop",
            prompt_tokens=tokens,
            completion_tokens=0,
            queue_ms=record.in_ms("queue"),
            prefill_ms=record.in_ms("prefill"),
            decode_ms=0.0,
            preparation_ms=record.in_ms("preparation"),
            load_ms=record.in_ms("load"),
            use=PromptUse(computed_tokens=tokens),
        )


class EmbeddingJobs:
    """The running requests of all embedding models and rerankers, by id."""

    def __init__(
        self,
        pool: ModelPool,
        waiting: WaitingQueue,
        loaded_at: Mapping[str, float],
        share: PrefillShare,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._waiting = waiting
        # When each model was loaded last, in the clock's time.
        self._loaded_at = loaded_at
        self._share = share
        self._clock = clock
        self._running: dict[int, RunningEmbedding] = {}

    def __len__(self) -> int:
        return len(self._running)

    def rename_client(self, former: str, client: str) -> None:
        """The requests of `former` are those of `client`."""
        for each in self._running.values():
            if each.prepared.submit.client == former:
                each.prepared = each.prepared.of_client(client)

    def cancel(self, ids: Iterable[int]) -> None:
        """Drop these requests; unknown ids are ignored."""
        for id in ids:
            if id in self._running:
                self._release(id)

    def admit(self, max_running: int) -> list[Event]:
        """Start the waiting requests of each loaded model, up to `max_running` of them."""
        events: list[Event] = []
        for model in self._pool.embedders:
            self._preempt(model, max_running)
            while (prepared := self._next(model, max_running)) is not None:
                events += self._start(model, prepared)
        return events

    def step(self, begin: Callable[[float], None]) -> list[Event]:
        """One slice of each model's texts, a short one beside decoding rows.

        Beside other clients' answers it has its turn with the prompts.

        Raises:
            RuntimeError: the device failed.
        """
        events: list[Event] = []
        clients = {each.prepared.submit.client for each in self._running.values()}
        if not self._share.allows(TURN_OF_TEXTS, clients):
            return events
        started_at = self._clock()
        busy = [model for model in self._pool.embedders if len(model.engine)]
        for model in busy:
            for computed in model.engine.step(begin, self._longest_s()):
                events += self._process(computed)
            for failed in model.engine.take_failed():
                events += self._retry_alone(failed)
            self._pool.mark_used(model.info.id)
        self._share.charge(self._clock() - started_at)
        return events

    def _longest_s(self) -> float:
        """The longest that a slice may take: as long as a decode step beside decoding rows."""
        decode_s = max((model.engine.decode_s for model in self._pool), default=0.0)
        return max(decode_s, MIN_SLICE_S) if decode_s else float("inf")

    def _next(self, model: LoadedEmbedder, max_running: int) -> PreparedEmbedding | None:
        """Remove and return this model's next request, in fair turns of the clients."""
        if len(model.engine) >= max_running:
            return None
        held = Counter(each.client for each in self._places(model))
        head = self._waiting.peek(model.info.id, held, max_running)
        if not isinstance(head, PreparedEmbedding):
            return None
        self._waiting.take(head)
        return head

    def _start(self, model: LoadedEmbedder, prepared: PreparedEmbedding) -> Iterator[Event]:
        submit, (tokens, index) = prepared.submit, prepared.longest
        most = model.engine.longest(tokens)
        if tokens > most:
            param = name_of(submit, index, len(prepared.rows))
            yield too_long(param, tokens, most, " in this server's memory").to_rejected(submit.id)
            return
        model.engine.insert(
            submit.id, prepared.rows, alone=prepared.alone, priority=submit.priority
        )
        record = prepared.record or AnswerRecord(since=prepared.received_at)
        now, loaded_at = self._clock(), self._loaded_at.get(model.info.id)
        record.leave_queue(now, prepared.opening_s, prepared.preparation_s, loaded_at)
        record.enter("prefill", now)
        self._running[submit.id] = RunningEmbedding(model, prepared, record)
        if not prepared.started:
            yield Started(
                submit.id,
                prepared.prompt_tokens,
                fingerprint=model.config.fingerprint,
                queue_ms=record.in_ms("queue"),
                preparation_ms=record.in_ms("preparation"),
                load_ms=record.in_ms("load"),
            )

    def _places(self, model: LoadedEmbedder) -> list[Place]:
        """The places of this model's requests in order of arrival; the oldest one is fixed."""
        own = [each for each in self._running.values() if each.model is model]
        own.sort(key=lambda each: (each.prepared.received_at, each.id))
        return [
            Place(
                id=each.id,
                client=each.prepared.submit.client,
                fixed=position == 0,
                priority=each.prepared.submit.priority,
            )
            for position, each in enumerate(own)
        ]

    def _preempt(self, model: LoadedEmbedder, max_running: int) -> None:
        """Queue requests of a client above its share again, without what is computed of them."""
        waiting = self._waiting.waiting_of(model.info.id)
        for id in preempt_for_shares(self._places(model), waiting, max_running):
            self._requeue(id)

    def _requeue(self, id: int, *, alone: bool = False) -> None:
        running = self._running[id]
        rows = running.model.engine.left(id)
        running.record.enter("queue", self._clock())
        self._release(id)
        self._waiting.push_front(
            dataclasses.replace(
                running.prepared,
                rows=rows,
                record=running.record,
                opening_s=0.0,
                preparation_s=0.0,
                alone=alone or running.prepared.alone,
            )
        )

    def _process(self, computed: Computed) -> Iterator[Event]:
        """The events of texts that are computed, and the end behind the last ones."""
        running = self._running[computed.id]
        values = shorten(running, computed.values)
        if not np.isfinite(values).all():
            yield self._fail(computed.id, NOT_NUMBERS)
            return
        yield Embedded(computed.id, computed.indices, values.astype("<f4").tobytes())
        if running.model.engine.left(computed.id):
            return
        self._release(computed.id)
        yield running.finish(self._clock())

    def _retry_alone(self, failed: FailedRow) -> Iterator[Event]:
        """Queue a request again whose model failed beside others; the second time it fails."""
        if self._running[failed.id].prepared.alone:
            yield self._fail(failed.id, f"The model failed twice: {failed.reason}")
        else:
            self._requeue(failed.id, alone=True)

    def _fail(self, id: int, message: str) -> Failed:
        self._release(id)
        return Failed(id, message)

    def _release(self, id: int) -> None:
        running = self._running.pop(id)
        running.model.engine.remove([id])
        self._pool.mark_used(running.model.info.id)


def shorten(running: RunningEmbedding, values: Values) -> Values:
    """The vectors [texts, dimensions] as long as the request's, and of length 1 as before."""
    dimensions = running.prepared.submit.dimensions
    texts = running.model.config.texts
    if dimensions is None or dimensions == values.shape[1] or texts is None:
        return values
    cut = values[:, :dimensions]
    if not texts.facts.normalised:
        return cut
    length = np.sqrt(np.sum(np.square(cut), axis=1, keepdims=True))
    shortened: Values = cut / np.maximum(length, np.float32(LEAST_LENGTH))
    return shortened
