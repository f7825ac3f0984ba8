from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.config.api_keys import ApiKey
from service.errors import RateLimited
from service.security.rate_limits import RateLimits, TokenBucket, format_duration


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def key(max_concurrent: int | None = None, tokens_per_minute: int | None = None) -> ApiKey:
    return ApiKey(
        name="laptop",
        sha256="0" * 64,
        max_concurrent=max_concurrent,
        tokens_per_minute=tokens_per_minute,
    )


def headers(token_bucket: TokenBucket) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in token_bucket.headers()}


def test_without_limits_nothing_is_refused_and_no_headers_are_sent() -> None:
    token_bucket = RateLimits(0, 0).bucket_for(key())
    for _ in range(1000):
        token_bucket.acquire()
        token_bucket.consume(10**9)
    assert headers(token_bucket) == {}


def test_a_keys_own_limits_override_the_settings_and_0_is_no_limit() -> None:
    rate_limits = RateLimits(1, 100)
    assert rate_limits.bucket_for(key()).max_concurrent == 1
    token_bucket = rate_limits.bucket_for(key(3, 0))
    assert (token_bucket.max_concurrent, token_bucket.tokens_per_minute) == (3, 0)


def test_a_released_request_allows_another_one() -> None:
    token_bucket = RateLimits(2, 0).bucket_for(key())
    token_bucket.acquire()
    token_bucket.acquire()
    with pytest.raises(RateLimited) as caught:
        token_bucket.acquire()
    assert (b"x-ratelimit-remaining-requests", b"0") in caught.value.headers
    token_bucket.release()
    assert headers(token_bucket)["x-ratelimit-remaining-requests"] == "1"
    token_bucket.acquire()


def test_tokens_are_refilled_evenly_and_an_excess_delays_the_next_request() -> None:
    clock = Clock()
    token_bucket = RateLimits(0, 600, now=clock).bucket_for(key())
    token_bucket.consume(900)
    with pytest.raises(RateLimited) as caught:
        token_bucket.acquire()
    # An excess of 300 and one token for the request, at 10 tokens per second.
    assert caught.value.retry_after_s == 31
    assert headers(token_bucket) == {
        "x-ratelimit-limit-tokens": "600",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m30s",
    }
    clock.seconds = caught.value.retry_after_s
    token_bucket.acquire()
    assert headers(token_bucket)["x-ratelimit-remaining-tokens"] == "10"


def test_after_a_long_pause_the_bucket_holds_one_minutes_tokens() -> None:
    clock = Clock()
    token_bucket = RateLimits(0, 600, now=clock).bucket_for(key())
    clock.seconds = 86400.0
    assert token_bucket.tokens == 600


def test_a_changed_limit_applies_from_the_next_request() -> None:
    rate_limits = RateLimits(0, 0)
    rate_limits.bucket_for(key(None, 10)).consume(20)
    with pytest.raises(RateLimited):
        rate_limits.bucket_for(key(None, 10)).acquire()
    rate_limits.bucket_for(key(None, 1000)).acquire()


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5000)), max_size=30))
def test_in_any_time_no_more_is_granted_than_the_limit_and_one_request(
    uses: list[tuple[float, int]],
) -> None:
    clock = Clock()
    token_bucket = RateLimits(0, 1000, now=clock).bucket_for(key())
    granted, largest = 0, 0
    for pause, tokens in uses:
        clock.seconds += pause
        try:
            token_bucket.acquire()
        except RateLimited:
            continue
        token_bucket.consume(tokens)
        granted, largest = granted + tokens, max(largest, tokens)
    assert granted <= 1000 + clock.seconds * 1000 / 60 + largest + 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0s"), (0.017, "17ms"), (1.0, "1s"), (1.04, "1.1s"), (60.0, "1m0s"), (361.5, "6m1.5s")],
)
def test_durations_are_in_openais_format(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
