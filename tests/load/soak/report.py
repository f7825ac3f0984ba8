"""The figures of a soak run, and the faults that fail it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.e2e.footprint import POOL_THREADS, Footprint
from tests.load.soak.clients import Outcome

# Of the finished answers. Ten minutes' 25,808 had none.
PARTED_SHARE = 0.0005
# Buffers of the allocator and of the interpreter that grow once.
GROWTH_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Holding:
    """Resources that the service holds, by the system's count, and its asyncio tasks."""

    footprint: Footprint
    tasks: int

    @property
    def counts(self) -> tuple[int, ...]:
        """All counts except memory and threads."""
        held = self.footprint
        return held.descriptors, held.children, self.tasks


@dataclass
class Report:
    """The figures. `cases` is the number of different requests.

    `wrong`: answers whose text, or number of tokens, was not the right one; `crossed`:
    those that held the text of another request. `parted`: seeded answers that left the
    right one. Where two tokens come out as near each other as floats are exact, what was
    computed beside them decides, so one of very many is no fault; more are.
    `refusal_ms`: how long a 429 takes while as much is in flight as may be.
    """

    seed: int
    cases: int = 0
    seconds: float = 0.0
    kills: int = 0
    sent: int = 0
    finished: int = 0
    left: int = 0
    failed: int = 0
    hung: int = 0
    wrong: int = 0
    parted: int = 0
    crossed: int = 0
    in_flight: int = 0
    tokens: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    faults_made: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    refusal_ms: dict[str, float] = field(default_factory=dict)
    before: Holding | None = None
    after: Holding | None = None

    @property
    def faults(self) -> list[str]:
        """The faults that fail the run."""
        ended = self.finished + self.left + self.failed
        found = {
            "requests hung": self.hung,
            "answers were wrong": self.wrong,
            "seeded answers parted from the right ones": self._too_many_parted,
            "answers held another's text": self.crossed,
            "requests failed": self.failed,
            "requests are not accounted for": self.sent - ended - self.hung,
            "requests are still in flight": self.in_flight,
            "descriptors, threads, children or tasks were left": self.left_over,
            "bytes more are held than may be": self._grown(),
        }
        return [f"{count} {what}" for what, count in found.items() if count]

    def add(self, outcome: Outcome, right: Mapping[int, Outcome]) -> None:
        """Count one request."""
        setattr(self, outcome.end, getattr(self, outcome.end) + 1)
        if outcome.code:
            self.failures[outcome.code] = self.failures.get(outcome.code, 0) + 1
        self.tokens += outcome.tokens or 0
        expected = right[outcome.case.number]
        if differ(outcome, expected):
            if outcome.case.seed is None:
                self.wrong += 1
            else:
                self.parted += 1
            self.differences.append(describe(outcome, expected))
            self.crossed += any(other.text.startswith(outcome.text) for other in right.values())

    @property
    def _too_many_parted(self) -> int:
        return self.parted if self.parted > PARTED_SHARE * self.finished else 0

    @property
    def left_over(self) -> int:
        """Descriptors, threads, children and tasks that were added since the start."""
        if self.before is None or self.after is None:
            return 0
        pairs = zip(self.before.counts, self.after.counts, strict=True)
        threads = self.after.footprint.threads - self.before.footprint.threads
        added = [after - before for before, after in pairs]
        return sum(max(0, count) for count in (*added, threads - POOL_THREADS))

    def _grown(self) -> int:
        if self.before is None or self.after is None:
            return 0
        after, before = self.after.footprint, self.before.footprint
        grown = after.resident_bytes - before.resident_bytes
        return grown if grown > GROWTH_BYTES else 0


def differ(outcome: Outcome, expected: Outcome) -> bool:
    """Whether an answer differs in text or tokens from the expected one, up to its end."""
    if outcome.end != "finished":
        return not expected.text.startswith(outcome.text)
    return (outcome.text, outcome.tokens) != (expected.text, expected.tokens)


def describe(outcome: Outcome, expected: Outcome) -> str:
    """Where an answer differs from the expected one."""
    case, text, right = outcome.case, outcome.text, expected.text
    pairs = enumerate(itertools.zip_longest(text, right))
    same = next((place for place, (ours, theirs) in pairs if ours != theirs), len(right))
    return (
        f"case {case.number} (seed {case.seed}, stop {case.stop!r}): "
        f"{outcome.tokens} tokens for {expected.tokens}, the same for {same} characters: "
        f"{text[same : same + 20]!r} for {right[same : same + 20]!r}"
    )
