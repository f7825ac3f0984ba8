"""What one kind of hostile client did to the others, and whether that is right."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from tests.load.attack.wire import READY, SENT
from tests.load.bystanders import Seen

MB = 1_000_000
MS_PER_S = 1000.0
SERVICE_BYTES = 400 * MB


@dataclass(frozen=True)
class Window:
    """A part of the observation, in seconds of the monotonic clock."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.begin

    def __contains__(self, moment: float) -> bool:
        return self.begin <= moment < self.end


@dataclass(frozen=True)
class Limits:
    """What is right. Rates are shares of the undisturbed one; None: it does not count."""

    worker_bytes: int
    first_token_s: float = 1.0
    gap_s: float | None = 0.25
    rate: float | None = 0.5
    service_bytes: int = SERVICE_BYTES


@dataclass(frozen=True)
class Row:
    """The figures of one kind.

    `first_p50_s` and `first_max_s` count a ping that is unanswered with the time it has waited.
    `floor_gap_s` and `floor_rate` are those beside the same clients when they send to a server that
    reads and forgets: what they take of the machine. None: not measured. `clients_nice` is the
    niceness of the hostile clients.
    """

    model: str
    kind: str
    pings: int
    first_p50_s: float
    first_max_s: float
    unanswered: int
    quiet_first_max_s: float
    quiet_gap_s: float
    gap_s: float
    rate: float
    service_bytes: int
    worker_bytes: int
    restarts: int
    ping_errors: Mapping[str, int] = field(default_factory=dict)
    stream_errors: Mapping[str, int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    floor_gap_s: float | None = None
    floor_rate: float | None = None
    clients_nice: int = 0

    def faults(self, limits: Limits) -> list[str]:
        """What is wrong, in words for the table; nothing where all is right."""
        found = {
            "nothing was sent": not self.outcomes,
            "first token": self.first_max_s > limits.first_token_s,
            "pings failed": bool(self.ping_errors),
            "pings unanswered": self.unanswered > 0,
            "no pings": self.pings == 0,
            "gap": limits.gap_s is not None and self.gap_s >= limits.gap_s,
            "rate": limits.rate is not None and self.rate < limits.rate,
            "streams failed": bool(self.stream_errors),
            "memory of the service": self.service_bytes >= limits.service_bytes,
            "memory of the worker": self.worker_bytes > limits.worker_bytes,
            "restarts": self.restarts > 0,
        }
        return [what for what, wrong in found.items() if wrong]


def first_tokens(pings: Sequence[Seen], window: Window, seen_until: float) -> list[float]:
    """Seconds to the first token of each ping that was due in the window and did not fail.

    One that has none yet counts with the time from when it was due to `seen_until`.
    """
    return [
        (ping.text_at[0] if ping.text_at else seen_until) - ping.due_at
        for ping in pings
        if ping.due_at in window and ping.error is None
    ]


def unanswered(pings: Sequence[Seen], window: Window) -> int:
    """Pings that were due in the window and have not ended."""
    return sum(ping.due_at in window and ping.ended_at is None for ping in pings)


def longest_gap(streams: Sequence[Seen], window: Window) -> float:
    """The longest time without text within one answer, of gaps that touch the window.

    The last text of an answer that has not ended is followed by a gap to the window's end.
    """
    touching = (
        (earlier, later)
        for stream in streams
        for earlier, later in itertools.pairwise(moments(stream, window.end))
        if later >= window.begin and earlier < window.end
    )
    return max((later - earlier for earlier, later in touching), default=0.0)


def moments(stream: Seen, end: float) -> Iterator[float]:
    """When text came, and the end of what is known where the answer goes on."""
    yield from stream.text_at
    if stream.text_at and stream.ended_at is None and end > stream.text_at[-1]:
        yield end


def characters_per_s(streams: Sequence[Seen], window: Window) -> float:
    """The characters of all streams in the window, a second. Events may hold several tokens."""
    counted = sum(
        count
        for stream in streams
        for moment, count in zip(stream.text_at, stream.characters, strict=True)
        if moment in window
    )
    return counted / window.seconds


def rate_of(streams: Sequence[Seen], quiet: Window, loud: Window) -> float:
    """The streams' rate as a share of the undisturbed one; 0 where that is 0."""
    undisturbed = characters_per_s(streams, quiet)
    return characters_per_s(streams, loud) / undisturbed if undisturbed else 0.0


def count_errors(seen: Sequence[Seen], window: Window) -> dict[str, int]:
    """How many requests that were due in the window failed, by the error."""
    errors: dict[str, int] = {}
    for one in seen:
        if one.error is not None and one.due_at in window:
            errors[one.error] = errors.get(one.error, 0) + 1
    return errors


def count_outcomes(lines: Iterable[str]) -> dict[str, int]:
    """What became of the requests, from what the clients said: each of those sent has one."""
    counts = Counter(line for line in lines if line != READY)
    sent = counts.pop(SENT, 0)
    if without := sent - counts.total():
        counts["no answer"] = without
    return dict(counts)


def middle(values: Sequence[float]) -> float:
    """The median; 0 of no values."""
    return median(values) if values else 0.0


HEADINGS = (
    "model",
    "hostile client",
    "it got",
    "first token, p50 / max (undisturbed max)",
    "longest gap (undisturbed; clients alone)",
    "rate (clients alone)",
    "memory: service / worker",
    "restarts",
    "right",
)


def cells(row: Row, limits: Limits) -> list[str]:
    """The cells of a row, in the order of the headings."""
    faults = row.faults(limits)
    beside = floor(row.floor_gap_s, "; {:,.0f}", MS_PER_S)
    return [
        row.model,
        row.kind,
        counted(row.outcomes) or "nothing",
        f"{ms(row.first_p50_s)} / {ms(row.first_max_s)} ms ({ms(row.quiet_first_max_s)})",
        f"{ms(row.gap_s)} ms ({ms(row.quiet_gap_s)}{beside})",
        f"{row.rate:.2f}{floor(row.floor_rate, ' ({:.2f})')}",
        f"{row.service_bytes / MB:,.0f} / {row.worker_bytes / MB:,.0f} MB",
        str(row.restarts),
        "no: " + ", ".join([*faults, *errors_of(row)]) if faults else "yes",
    ]


def floor(value: float | None, form: str, factor: float = 1.0) -> str:
    """A figure of the clients alone; nothing where it is not measured."""
    return "" if value is None else form.format(value * factor)


def ms(seconds: float) -> str:
    """Whole milliseconds."""
    return f"{seconds * MS_PER_S:,.0f}"


def errors_of(row: Row) -> list[str]:
    """The errors of pings and streams, in words."""
    named = {"pings got": row.ping_errors, "streams got": row.stream_errors}
    return [f"{who} {counted(errors)}" for who, errors in named.items() if errors]


def counted(outcomes: Mapping[str, int]) -> str:
    """Outcomes with their counts, the most frequent first."""
    ordered = sorted(outcomes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} x {outcome}" for outcome, count in ordered)


def markdown(rows: Sequence[Row], limits: Limits) -> str:
    """The rows as a table in Markdown."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(cells(row, limits) for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
