"""Shares of the places in flight, as pure functions."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.inflight.shares import (
    EXTRA_PART,
    PlacesOfRequest,
    is_above_share,
    refuse_for_shares,
    share_of,
)

CLIENTS = ("a", "b", "c")
PLACES = 16
EXTRA = PLACES // EXTRA_PART


@st.composite
def requests(draw: st.DrawFn) -> list[PlacesOfRequest]:
    """Requests of up to three sequences that fit `PLACES`."""
    drawn: list[PlacesOfRequest] = []
    free = PLACES
    while free and draw(st.integers(0, 6)):
        count = draw(st.integers(1, min(3, free)))
        ids = list(range(PLACES - free, PLACES - free + count))
        drawn.append(PlacesOfRequest(draw(st.sampled_from(CLIENTS)), ids, draw(st.booleans())))
        free -= count
    return drawn


def held_by(present: list[PlacesOfRequest]) -> Counter[str]:
    held = Counter[str]()
    for request in present:
        held[request.client] += len(request.ids)
    return held


@given(requests(), st.sampled_from(CLIENTS), st.integers(1, 3))
def test_room_is_made_only_below_half_and_only_by_requests_that_have_not_started(
    present: list[PlacesOfRequest], client: str, count: int
) -> None:
    held = held_by(present)
    refused = refuse_for_shares(present, client, count, PLACES)
    if held.total() + count <= PLACES:
        assert refused == []
        return
    if refused is None:
        return
    left = held_by([request for request in present if request not in refused])
    assert left.total() + count <= PLACES + EXTRA
    assert held[client] + count <= share_of(PLACES)
    losers = {request.client for request in refused}
    assert client not in losers
    assert all(held[loser] > share_of(PLACES) for loser in losers)
    assert not any(request.started for request in refused)


@given(requests(), st.sampled_from(CLIENTS), st.integers(1, 3))
def test_a_client_alone_is_never_above_its_share(
    present: list[PlacesOfRequest], client: str, count: int
) -> None:
    own = [request for request in present if request.client == client]
    assert not is_above_share(own, client, count, PLACES)


def test_the_newest_request_of_the_largest_client_is_refused() -> None:
    present = [PlacesOfRequest("a", [id], started=id < 4) for id in range(PLACES)]
    refused = refuse_for_shares(present, "b", 2, PLACES)
    assert refused is not None
    assert [request.ids for request in refused] == [[PLACES - 1], [PLACES - 2]]
    assert refuse_for_shares(present, "a", 1, PLACES) is None


def test_a_client_below_half_gets_a_place_beyond_the_limit_where_all_others_have_started() -> None:
    started = [PlacesOfRequest("a", [id], started=True) for id in range(PLACES)]
    assert refuse_for_shares(started, "b", EXTRA, PLACES) == []
    assert refuse_for_shares(started, "a", 1, PLACES) is None
    waiting = [PlacesOfRequest("b", [PLACES + id]) for id in range(EXTRA)]
    assert refuse_for_shares([*started, *waiting], "b", 1, PLACES) is None


def test_a_client_gets_no_place_above_half_while_another_waits() -> None:
    present = [PlacesOfRequest("a", [id], started=True) for id in range(PLACES // 2)]
    waiting = PlacesOfRequest("b", [50])
    assert is_above_share([*present, waiting], "a", 1, PLACES)
    assert not is_above_share([*present, waiting], "b", 1, PLACES)
    waiting.started = True
    assert not is_above_share([*present, waiting], "a", 1, PLACES)
