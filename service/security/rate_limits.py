"""What one API key may use: requests at once, and tokens a minute.

Tokens are counted as the device makes them, prompt and answer alike, since nothing knows
before how long an answer will be: a request is admitted while its key has tokens left, and
goes on when it uses them up. What it used beyond is missing from the next minutes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from service.config.api_keys import ApiKey
from service.errors import Headers, RateLimited

MINUTE_S = 60.0
# When a running request of the same key will end is not known.
CONCURRENCY_RETRY_S = 1


class TokenBucket:
    """One key's use. A limit of 0 is none.

    The tokens are a bucket: it holds those of one minute, and fills evenly.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.max_concurrent = 0
        self.tokens_per_minute = 0
        self.running = 0
        self._tokens = 0.0
        self._filled_at = now()

    def limit(self, max_concurrent: int, tokens_per_minute: int) -> None:
        """Set the limits, which may have changed since the last request."""
        self.max_concurrent = max_concurrent
        if tokens_per_minute != self.tokens_per_minute:
            self.tokens_per_minute = tokens_per_minute
            self._tokens = float(tokens_per_minute)
            self._filled_at = self._now()

    def enter(self) -> None:
        """Take a place for one request.

        Raises:
            RateLimited: as many run as may, or the tokens are used up.
        """
        if self.max_concurrent and self.running >= self.max_concurrent:
            raise RateLimited(
                f"This API key has {self.running} requests running, and may not have more.",
                retry_after_s=CONCURRENCY_RETRY_S,
                headers=self.headers(),
            )
        if self.tokens_per_minute and self.tokens < 1:
            raise RateLimited(
                f"This API key has used its {self.tokens_per_minute} tokens a minute.",
                retry_after_s=math.ceil(self.wait_s(1)),
                headers=self.headers(),
            )
        self.running += 1

    def leave(self) -> None:
        """Give the place back."""
        self.running -= 1

    def spend(self, tokens: int) -> None:
        """Count tokens that were computed or made."""
        if self.tokens_per_minute:
            self._tokens = self.tokens - tokens

    @property
    def tokens(self) -> float:
        """The tokens left, negative after a request that used more than there were."""
        now = self._now()
        filled = (now - self._filled_at) * self.tokens_per_minute / MINUTE_S
        self._filled_at = now
        self._tokens = min(self._tokens + filled, float(self.tokens_per_minute))
        return self._tokens

    def wait_s(self, tokens: float) -> float:
        """How long until so many are left."""
        return max(0.0, (tokens - self.tokens) * MINUTE_S / self.tokens_per_minute)

    def headers(self) -> Headers:
        """OpenAI's `x-ratelimit-*`; `requests` are those at once. None where nothing is limited."""
        headers: Headers = []
        if self.max_concurrent:
            free = max(0, self.max_concurrent - self.running)
            reset = 0.0 if free else float(CONCURRENCY_RETRY_S)
            headers += _triple("requests", self.max_concurrent, free, reset)
        if self.tokens_per_minute:
            left = max(0, math.floor(self.tokens))
            reset = self.wait_s(self.tokens_per_minute)
            headers += _triple("tokens", self.tokens_per_minute, left, reset)
        return headers


class RateLimits:
    """The allowances of all keys; the limits given here are for keys without their own."""

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
        self._allowances: dict[str, TokenBucket] = {}

    def of(self, key: ApiKey) -> TokenBucket:
        """The key's allowance with the limits that it has now."""
        token_bucket = self._allowances.get(key.name)
        if token_bucket is None:
            token_bucket = self._allowances[key.name] = TokenBucket(self._now)
        token_bucket.limit(
            self._max_concurrent if key.max_concurrent is None else key.max_concurrent,
            self._tokens_per_minute if key.tokens_per_minute is None else key.tokens_per_minute,
        )
        return token_bucket


def _triple(kind: str, limit: int, remaining: int, reset_s: float) -> Headers:
    return [
        (f"x-ratelimit-limit-{kind}".encode(), str(limit).encode()),
        (f"x-ratelimit-remaining-{kind}".encode(), str(remaining).encode()),
        (f"x-ratelimit-reset-{kind}".encode(), in_openai_time(reset_s).encode()),
    ]


def in_openai_time(seconds: float) -> str:
    """A time as OpenAI writes it in these headers: 17ms, 1.5s, 6m0s."""
    if 0 < seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 10) / 10, MINUTE_S)
    return f"{minutes:.0f}m{rest:.3g}s" if minutes else f"{rest:.3g}s"
