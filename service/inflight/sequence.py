"""One sequence in flight, with everything that a new worker needs to resume it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec

from protocol.events import Progress, TextDelta
from protocol.messages import Request, Sibling, Submit
from service.inflight.attempts import Attempts
from service.inflight.output_collector import OutputCollector


class InflightSequence:
    """`id` is the sequence's id in the service, `attempt_id` its id in the worker.

    `attempt_id` changes when the sequence is withdrawn from the worker, so that late events
    of the earlier attempt are dropped; `attempts` keeps what they cost. Events go to `collector`,
    which belongs to the request. `owner` is the API key that it came with. It begins at `now`, of
    the monotonic clock.
    """

    __slots__ = (
        "_queue_timer",
        "attempt_id",
        "attempts",
        "collector",
        "has_prompt_logprobs",
        "id",
        "owner",
        "started",
        "submit",
        "tokens",
    )

    def __init__(
        self,
        submit: Request,
        collector: OutputCollector,
        owner: str = "",
        *,
        now: float = 0.0,
    ) -> None:
        self.id = self.attempt_id = submit.id
        self.submit = submit
        self.collector = collector
        self.owner = owner
        self.tokens: list[int] = []
        self.started = False
        self.attempts = Attempts(now)
        self.has_prompt_logprobs = False
        self._queue_timer: asyncio.TimerHandle | None = None

    def advance(self, event: Progress) -> bool:
        """Note how far the prefill is; whether the handler gets it: if it asks, until a token."""
        self.attempts.advance(event)
        return isinstance(self.submit, Submit) and self.submit.progress and not self.tokens

    def add_tokens(self, event: TextDelta, clock: Callable[[], float]) -> None:
        """Add tokens of the answer."""
        if not self.attempts.has_token:
            self.attempts.receive_token(clock())
        if event.accepted or event.rejected:
            self.attempts.count_drafts(event)
        self.tokens += event.tokens

    def start_queue_timer(self, timeout_s: float, on_timeout: Callable[[], None]) -> None:
        """Call `on_timeout` if the sequence is still waiting after `timeout_s`.

        A running timer is not restarted. A sequence that has started has no limit: it waits
        for the next worker however long that takes.
        """
        if self._queue_timer is None and not self.started:
            self._queue_timer = asyncio.get_running_loop().call_later(timeout_s, on_timeout)

    def stop_queue_timer(self) -> None:
        """Stop the timer: the device has the sequence, or the sequence has ended."""
        if self._queue_timer is not None:
            self._queue_timer.cancel()
            self._queue_timer = None


def to_submits(sequences: Iterable[InflightSequence]) -> list[Request]:
    """The messages that start these sequences on a worker, or resume them after their tokens.

    The sequences of one request with the same prompt are one message. A request for the
    tokenizer alone is one sequence, and so is one for vectors.
    """
    groups: dict[tuple[int, int], list[InflightSequence]] = {}
    for sequence in sequences:
        key = id(sequence.collector), id(sequence.submit.prompt)
        groups.setdefault(key, []).append(sequence)
    return [_to_submit(first, others) for first, *others in groups.values()]


def _to_submit(first: InflightSequence, others: list[InflightSequence]) -> Request:
    if not isinstance(first.submit, Submit):
        return msgspec.structs.replace(first.submit, id=first.attempt_id)
    return msgspec.structs.replace(
        first.submit,
        id=first.attempt_id,
        resume=first.tokens,
        siblings=[_to_sibling(other) for other in others],
    )


def _to_sibling(sequence: InflightSequence) -> Sibling:
    assert isinstance(sequence.submit, Submit)
    seed = sequence.submit.sampling.seed
    return Sibling(sequence.attempt_id, seed, sequence.tokens)
