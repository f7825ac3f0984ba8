"""Who goes back to a worker after a death, and who is to blame for it: a pure state machine.

At a worker's death each request that was on the device is marked with how far it
had got. All go to the next worker together, and one that gets a margin of tokens
beyond its mark is proven. Should the worker die again before that, the unproven
ones are suspects: each is tried alone, the newest first, while all others wait.
One that kills the worker alone is convicted, and the rest go on together. One
that proves itself alone waits for the end of the trial.

Where all prove themselves alone and yet die together, the margin grows with each
trial, so that all of them end in the long run, if need be one after the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

# More than a worker has computed and not yet sent when it dies.
MARGIN_TOKENS = 16
MARGIN_GROWTH = 4


@dataclass(slots=True)
class Request:
    """One request. `progress_at_crash`: its tokens at a crash; None once it is confirmed."""

    model: str
    tokens: int = 0
    progress_at_crash: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What the worker must be told: requests to take back from it, and to give to it."""

    take: list[int]
    give: list[int]


class CrashPolicy:
    """The requests in flight by id, in the order of their arrival."""

    def __init__(self) -> None:
        self._requests: dict[int, Request] = {}
        # In the order in which the worker has them.
        self._given: dict[int, None] = {}
        self._unconfirmed: set[int] = set()
        # The last one is on trial.
        self._suspects: list[int] = []
        self._tried: list[int] = []
        self._margin = MARGIN_TOKENS

    @property
    def busy(self) -> bool:
        """Whether the worker has anything to do."""
        return bool(self._given)

    @property
    def isolated(self) -> int | None:
        """The request that the worker has, or will have, for itself."""
        return self._suspects[-1] if self._suspects else None

    def join(self, id: int, model: str) -> None:
        """A request arrived; ids rise."""
        self._requests[id] = Request(model)

    def leave(self, id: int) -> None:
        """A request ended, by whatever end."""
        if self._requests.pop(id, None) is None:
            return
        self._given.pop(id, None)
        self._unconfirmed.discard(id)
        if id in self._suspects:
            self._suspects.remove(id)
            self._end_trial()
        self._reset_margin()

    def advance(self, id: int, tokens: int) -> bool:
        """A request has got this far; whether what the worker must have has changed."""
        request = self._requests[id]
        request.tokens = tokens
        if request.progress_at_crash is None or tokens < request.progress_at_crash + self._margin:
            return False
        request.progress_at_crash = None
        self._unconfirmed.discard(id)
        if id != self.isolated:
            self._reset_margin()
            return False
        self._tried.append(self._suspects.pop())
        self._end_trial()
        return True

    def change(self) -> Change:
        """What to tell a worker that takes requests; it is taken for told."""
        trial = self.isolated
        wanted = self._requests if trial is None else {trial: None}
        take = [id for id in self._given if id not in wanted]
        give = [id for id in wanted if id not in self._given]
        for id in take:
            del self._given[id]
        self._given.update(dict.fromkeys(give))
        return Change(take, give)

    def lose(self, max_running: int) -> list[int]:
        """The worker died with `max_running` requests a model on the device: who is convicted.

        What only waited for the device is not blamed.
        """
        present = self._on_device(max_running)
        again = sorted(id for id in present if id in self._unconfirmed)
        self._given.clear()
        self._mark(present)
        if not again:
            return []
        if len(present) == 1:
            self._clear_suspects()
            return again
        self._suspects, self._tried = again, []
        return []

    def _on_device(self, max_running: int) -> list[int]:
        """The requests that are served first of those given, which come to the device in order."""
        count: Counter[str] = Counter()
        present = []
        for id in self._given:
            model = self._requests[id].model
            count[model] += 1
            if count[model] <= max_running:
                present.append(id)
        return present

    def _mark(self, ids: Iterable[int]) -> None:
        for id in ids:
            request = self._requests[id]
            request.progress_at_crash = request.tokens
            self._unconfirmed.add(id)

    def _end_trial(self) -> None:
        """With no suspect left: all were proven alone, so together they must go further."""
        if not self._suspects and self._tried:
            self._margin *= MARGIN_GROWTH
            self._mark(id for id in self._tried if id in self._requests)
            self._tried = []

    def _clear_suspects(self) -> None:
        """The cause is found: the others are no suspects. They stay marked."""
        self._suspects, self._tried = [], []
        self._margin = MARGIN_TOKENS

    def _reset_margin(self) -> None:
        """Once all are proven together, the next death is a first one."""
        if not self._suspects and not self._unconfirmed:
            self._margin = MARGIN_TOKENS
