"""Rate limits of API keys: concurrent requests, and tokens per minute.

Tokens of prompts and answers are counted as the device computes them, because the length of
an answer is not known before. A request is admitted while its key has tokens left, and goes
on when it uses them up. The excess is subtracted from the tokens of the next minutes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from protocol.units import MS_PER_S
from service.config.api_keys import ApiKey
from service.errors import Headers, RateLimited

# OpenAI's headers: `requests` are concurrent requests here, not requests per minute.
KINDS = ("requests", "tokens")
LIMIT_HEADER = "x-ratelimit-limit-{}"
REMAINING_HEADER = "x-ratelimit-remaining-{}"
RESET_HEADER = "x-ratelimit-reset-{}"
RATE_LIMIT_HEADERS = tuple(
    header.format(kind)
    for kind in KINDS
    for header in (LIMIT_HEADER, REMAINING_HEADER, RESET_HEADER)
)
MINUTE_S = 60.0
# A guess: the time at which a running request ends is not known.
CONCURRENCY_RETRY_S = 1


class TokenBucket:
    """The usage of one key. A limit of 0 means no limit.

    The bucket holds the tokens of one minute and is refilled evenly.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.max_concurrent = 0
        self.tokens_per_minute = 0
        self.running = 0
        self._tokens = 0.0
        self._refilled_at = now()

    def set_limits(self, max_concurrent: int, tokens_per_minute: int) -> None:
        """Set the limits. A new limit of tokens fills the bucket."""
        self.max_concurrent = max_concurrent
        if tokens_per_minute != self.tokens_per_minute:
            self.tokens_per_minute = tokens_per_minute
            self._tokens = float(tokens_per_minute)
            self._refilled_at = self._now()

    def acquire(self, *, needs_tokens: bool = True) -> None:
        """Count one more running request.

        Raises:
            RateLimited: the limit of running requests is reached, or no tokens are left that the
                request needs.
        """
        if self.max_concurrent and self.running >= self.max_concurrent:
            raise RateLimited(
                f"This API key has {self.running} requests running; "
                f"its limit is {self.max_concurrent}.",
                retry_after_s=CONCURRENCY_RETRY_S,
                headers=self.headers(),
            )
        if needs_tokens and self.tokens_per_minute and self.tokens < 1:
            raise RateLimited(
                f"This API key has used its {self.tokens_per_minute} tokens per minute.",
                retry_after_s=math.ceil(self.seconds_until(1)),
                headers=self.headers(),
            )
        self.running += 1

    def release(self) -> None:
        """Count one running request less."""
        self.running -= 1

    def consume(self, tokens: int) -> None:
        """Count tokens that were computed or generated."""
        if self.tokens_per_minute:
            self._tokens = self.tokens - tokens

    @property
    def tokens(self) -> float:
        """The tokens left; negative after a request that used more than were left."""
        now = self._now()
        refilled = (now - self._refilled_at) * self.tokens_per_minute / MINUTE_S
        self._refilled_at = now
        self._tokens = min(self._tokens + refilled, float(self.tokens_per_minute))
        return self._tokens

    def seconds_until(self, tokens: float) -> float:
        """The time until the bucket holds `tokens` tokens."""
        return max(0.0, (tokens - self.tokens) * MINUTE_S / self.tokens_per_minute)

    def headers(self) -> Headers:
        """The `x-ratelimit-*` headers of the limits that are set."""
        headers: Headers = []
        if self.max_concurrent:
            free = max(0, self.max_concurrent - self.running)
            reset_s = 0.0 if free else float(CONCURRENCY_RETRY_S)
            headers += _limit_headers("requests", self.max_concurrent, free, reset_s=reset_s)
        if self.tokens_per_minute:
            left = max(0, math.floor(self.tokens))
            reset_s = self.seconds_until(self.tokens_per_minute)
            headers += _limit_headers("tokens", self.tokens_per_minute, left, reset_s=reset_s)
        return headers


class RateLimits:
    """The token buckets of all keys. The limits given here are for keys without their own."""

    def __init__(
        self,
        max_concurrent: int,
        tokens_per_minute: int,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_concurrent = max_concurrent
        self._tokens_per_minute = tokens_per_minute
        self._now = now
        self._buckets: dict[str, TokenBucket] = {}

    def bucket_for(self, key: ApiKey) -> TokenBucket:
        """The key's token bucket, with the limits that the key has now."""
        token_bucket = self._buckets.get(key.name)
        if token_bucket is None:
            token_bucket = self._buckets[key.name] = TokenBucket(self._now)
        token_bucket.set_limits(
            self._max_concurrent if key.max_concurrent is None else key.max_concurrent,
            self._tokens_per_minute if key.tokens_per_minute is None else key.tokens_per_minute,
        )
        return token_bucket


def _limit_headers(kind: str, limit: int, remaining: int, *, reset_s: float) -> Headers:
    return [
        (LIMIT_HEADER.format(kind).encode(), str(limit).encode()),
        (REMAINING_HEADER.format(kind).encode(), str(remaining).encode()),
        (RESET_HEADER.format(kind).encode(), format_duration(reset_s).encode()),
    ]


def format_duration(seconds: float) -> str:
    """A duration in OpenAI's format for these headers: 17ms, 1.5s, 6m0s."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * MS_PER_S)}ms"
    minutes, rest = divmod(math.ceil(seconds * 10) / 10, MINUTE_S)
    return f"{minutes:.0f}m{rest:.3g}s" if minutes else f"{rest:.3g}s"
