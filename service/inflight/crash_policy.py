"""Decides which requests a new worker gets and which request is blamed: a pure state machine.

After a crash, each request that was on the device is unconfirmed, and its number of tokens
is stored. All requests go to the next worker together. A request that generates a margin of
tokens beyond its stored number is confirmed.

If the worker crashes again, the unconfirmed requests become suspects. Each suspect runs
alone, the newest first, and all other requests wait. A suspect that crashes the worker alone
is blamed, and the other requests run together again. A suspect that is confirmed alone waits
until no suspect is left.

If all suspects are confirmed alone but crash the worker together, the margin grows with each
round. So all of them finish in the end, in the worst case one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

# More tokens than a worker can have computed and not yet sent when it crashes.
MARGIN_TOKENS = 16
MARGIN_GROWTH = 4


@dataclass(slots=True)
class TrackedRequest:
    """One request. `progress_at_crash`: its tokens at a crash; None once it is confirmed.

    `started` means that the present worker has put it on the device.
    """

    model: str
    tokens: int = 0
    started: bool = False
    progress_at_crash: int | None = None


@dataclass(frozen=True, slots=True)
class WorkerChanges:
    """The ids of the requests to cancel on the worker, and of those to submit to it."""

    cancel: list[int]
    submit: list[int]


class CrashPolicy:
    """The requests in flight by id, in the order of their arrival."""

    def __init__(self) -> None:
        self._requests: dict[int, TrackedRequest] = {}
        # The requests that the worker has, in the order in which they were submitted.
        self._assigned: dict[int, None] = {}
        self._unconfirmed: set[int] = set()
        # The last one is isolated.
        self._suspects: list[int] = []
        self._confirmed_alone: list[int] = []
        self._margin_tokens = MARGIN_TOKENS

    @property
    def busy(self) -> bool:
        """Whether the worker has any request."""
        return bool(self._assigned)

    @property
    def isolated(self) -> int | None:
        """The suspect that runs alone, now or on the next worker."""
        return self._suspects[-1] if self._suspects else None

    def add(self, id: int, model: str) -> None:
        """Add a new request. Its id is higher than all earlier ids."""
        self._requests[id] = TrackedRequest(model)

    def remove(self, id: int) -> None:
        """Remove a request that has ended, for any reason."""
        if self._requests.pop(id, None) is None:
            return
        self._assigned.pop(id, None)
        self._unconfirmed.discard(id)
        if id in self._suspects:
            self._suspects.remove(id)
            self._end_isolation()
        self._reset_margin()

    def record_started(self, id: int) -> None:
        """Note that the worker has put this request on the device."""
        self._requests[id].started = True

    def record_progress(self, id: int, tokens: int) -> bool:
        """Set the number of tokens of a request; whether the worker's requests must change."""
        request = self._requests[id]
        request.tokens = tokens
        at_crash = request.progress_at_crash
        if at_crash is None or tokens < at_crash + self._margin_tokens:
            return False
        request.progress_at_crash = None
        self._unconfirmed.discard(id)
        if id != self.isolated:
            self._reset_margin()
            return False
        self._confirmed_alone.append(self._suspects.pop())
        self._end_isolation()
        return True

    def take_changes(self) -> WorkerChanges:
        """The changes to send to a ready worker; they count as sent."""
        isolated = self.isolated
        allowed = self._requests if isolated is None else {isolated: None}
        cancel = [id for id in self._assigned if id not in allowed]
        submit = [id for id in allowed if id not in self._assigned]
        for id in cancel:
            del self._assigned[id]
            self._requests[id].started = False
        self._assigned.update(dict.fromkeys(submit))
        return WorkerChanges(cancel, submit)

    def record_crash(self, max_running: int) -> list[int]:
        """Handle a crash of a worker that ran up to `max_running` requests of each model.

        Returns the blamed requests. A request that waited for the device is not blamed.
        """
        present = self._on_device(max_running)
        repeated = sorted(id for id in present if id in self._unconfirmed)
        self._assigned.clear()
        for request in self._requests.values():
            request.started = False
        self._mark_unconfirmed(present)
        if not repeated:
            return []
        if len(present) == 1:
            self._clear_suspects()
            return repeated
        self._suspects, self._confirmed_alone = repeated, []
        return []

    def record_blameless_loss(self) -> None:
        """The worker is lost, and no request has caused that."""
        self._assigned.clear()
        for request in self._requests.values():
            request.started = False

    def _on_device(self, max_running: int) -> list[int]:
        """The started requests, and the first others of each model, up to `max_running` together.

        The others may have been put on the device just before the crash, in about the order of
        their assignment: small prompts are prepared before large ones. Returns the ids in the
        order of assignment.
        """
        started = [id for id in self._assigned if self._requests[id].started]
        count = Counter(self._requests[id].model for id in started)
        present = set(started)
        for id in self._assigned:
            model = self._requests[id].model
            if id not in present and count[model] < max_running:
                count[model] += 1
                present.add(id)
        return [id for id in self._assigned if id in present]

    def _mark_unconfirmed(self, ids: Iterable[int]) -> None:
        for id in ids:
            request = self._requests[id]
            request.progress_at_crash = request.tokens
            self._unconfirmed.add(id)

    def _end_isolation(self) -> None:
        """With no suspect left, all were confirmed alone: raise the margin for the next round."""
        if not self._suspects and self._confirmed_alone:
            self._margin_tokens *= MARGIN_GROWTH
            self._mark_unconfirmed(id for id in self._confirmed_alone if id in self._requests)
            self._confirmed_alone = []

    def _clear_suspects(self) -> None:
        """The cause is found, so there are no other suspects. They stay unconfirmed."""
        self._suspects, self._confirmed_alone = [], []
        self._margin_tokens = MARGIN_TOKENS

    def _reset_margin(self) -> None:
        """Once all requests are confirmed together, the next crash counts as a first one."""
        if not self._suspects and not self._unconfirmed:
            self._margin_tokens = MARGIN_TOKENS
