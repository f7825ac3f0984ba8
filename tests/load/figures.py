"""Reported figures from the timings of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from tests.load.timings import Timing
from tests.load.usage import Usage

MS_PER_S = 1000.0
# Above this share of one core the client's own work affects the measurement.
CLIENT_BUSY = 0.9


@dataclass(frozen=True)
class Percentiles:
    """Percentiles in milliseconds."""

    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self:
        """The percentiles of `values`; zeros if there are none."""
        ordered = sorted(seconds) or [0.0]
        return cls(*(share_of(ordered, share) * MS_PER_S for share in (0.50, 0.95, 0.99)))

    def __str__(self) -> str:
        return "/".join(f"{ms:.1f}" if ms < 10 else f"{ms:.0f}" for ms in self)

    def __iter__(self) -> Iterator[float]:
        return iter((self.p50, self.p95, self.p99))


@dataclass(frozen=True)
class Figures:
    """The result of one load. `client_cpu` is the client's share of one core."""

    level: float
    requests: int
    tokens_per_s: float
    requests_per_s: float
    prompt_tokens: float
    first_token: Percentiles
    between_tokens: Percentiles
    whole: Percentiles
    errors: dict[str, int]
    client_cpu: float
    usage: Usage | None

    @property
    def client_busy(self) -> bool:
        """Whether the client itself was the bottleneck."""
        return self.client_cpu > CLIENT_BUSY


def summarise(
    level: float,
    timings: Sequence[Timing],
    elapsed_s: float,
    client_cpu: float,
    usage: Usage | None = None,
) -> Figures:
    """The figures of all requests of one load; times are those of requests that succeeded."""
    good = [timing for timing in timings if timing.error is None]
    tokens = sum(timing.tokens for timing in timings)
    return Figures(
        level=level,
        requests=len(timings),
        tokens_per_s=tokens / elapsed_s,
        requests_per_s=len(good) / elapsed_s,
        prompt_tokens=sum(timing.prompt_tokens for timing in good) / max(1, len(good)),
        first_token=Percentiles.of(t.text_at[0] - t.due_at for t in good if t.text_at),
        between_tokens=Percentiles.of(gap for timing in good for gap in timing.gaps),
        whole=Percentiles.of(timing.ended_at - timing.due_at for timing in good),
        errors=dict(Counter(timing.error for timing in timings if timing.error)),
        client_cpu=client_cpu,
        usage=usage.per_1000_tokens(tokens) if usage else None,
    )


def share_of(ordered: Sequence[float], share: float) -> float:
    """The value that a `share` of the values does not exceed."""
    return ordered[round(share * (len(ordered) - 1))]
