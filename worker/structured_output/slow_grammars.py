"""Grammars whose compilation timed out: after the second time they are refused for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from worker.structured_output.constraint import GrammarError

TIME_OUTS = 2
REFUSED_FOR_S = 60.0
MAX_REMEMBERED = 1024


@dataclass(slots=True)
class SlowGrammar:
    """How often one grammar timed out, when it last did, and the error of that."""

    count: int
    at: float
    error: GrammarError


class SlowGrammars:
    """The grammars that timed out, by key, the latest last. Not thread-safe."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._grammars: OrderedDict[bytes, SlowGrammar] = OrderedDict()

    def add(self, key: bytes, error: GrammarError) -> None:
        """Record a time-out."""
        earlier = self._grammars.pop(key, None)
        count = 1 if earlier is None else earlier.count + 1
        self._grammars[key] = SlowGrammar(count, self._clock(), error)
        while len(self._grammars) > MAX_REMEMBERED:
            self._grammars.popitem(last=False)

    def remove(self, key: bytes) -> None:
        """Forget the time-outs of a grammar that has a result."""
        self._grammars.pop(key, None)

    def refusal_of(self, key: bytes) -> GrammarError | None:
        """The error of a grammar that timed out twice, the last time within `REFUSED_FOR_S`."""
        slow = self._grammars.get(key)
        if slow is None or slow.count < TIME_OUTS:
            return None
        remaining_s = slow.at + REFUSED_FOR_S - self._clock()
        if remaining_s <= 0:
            return None
        message = f"{slow.error}; it is tried again after {remaining_s:.0f} s"
        return GrammarError(message, timed_out=True)
