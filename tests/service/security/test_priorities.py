"""Priorities: a client may put itself behind others, and before them as far as it may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.security.priorities import DEFAULT_PRIORITY, bound_priority

numbers = st.integers(-20, 20)


@given(numbers, numbers)
def test_no_priority_is_below_the_bound(asked: int, least: int) -> None:
    if asked >= least or asked == DEFAULT_PRIORITY:
        priority = bound_priority(asked, least)
        assert priority >= least
        assert priority == asked or asked == DEFAULT_PRIORITY
        return
    with pytest.raises(InvalidRequest) as raised:
        bound_priority(asked, least)
    assert raised.value.param == "priority"
    assert str(least) in raised.value.message


@given(numbers)
def test_a_request_that_asks_for_none_comes_as_early_as_others_unless_its_key_is_later(
    least: int,
) -> None:
    assert bound_priority(DEFAULT_PRIORITY, least) == max(0, least)


def test_without_configuration_a_client_may_only_lower_itself() -> None:
    assert bound_priority(7, DEFAULT_PRIORITY) == 7
    with pytest.raises(InvalidRequest):
        bound_priority(-1, DEFAULT_PRIORITY)
