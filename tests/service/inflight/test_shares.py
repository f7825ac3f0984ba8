"""Shares of the places in flight."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from service.inflight.shares import (
    EXTRA_PART,
    PlacesInFlight,
    PlacesOfRequest,
    share_of,
)

CLIENTS = ("a", "b", "c")
PLACES = 16
EXTRA = PLACES // EXTRA_PART


def request_of(client: str, *ids: int, started: bool = False) -> PlacesOfRequest:
    return PlacesOfRequest(client, ids[0], list(ids), started)


def placed(*present: PlacesOfRequest) -> PlacesInFlight:
    """These requests, which have come in this order."""
    places = PlacesInFlight(PLACES)
    for request in present:
        places.add(request.client, request.ids)
        if request.started:
            places.start(request.ids[-1])
    return places


@st.composite
def requests(draw: st.DrawFn) -> list[PlacesOfRequest]:
    """Requests of up to three sequences that fit `PLACES`."""
    drawn: list[PlacesOfRequest] = []
    free = PLACES
    while free and draw(st.integers(0, 6)):
        count = draw(st.integers(1, min(3, free)))
        ids = list(range(PLACES - free, PLACES - free + count))
        client, started = draw(st.sampled_from(CLIENTS)), draw(st.booleans())
        drawn.append(request_of(client, *ids, started=started))
        free -= count
    return drawn


def held_by(present: list[PlacesOfRequest]) -> Counter[str]:
    held = Counter[str]()
    for request in present:
        held[request.client] += len(request.ids)
    return held


def assert_same(places: PlacesInFlight, others: PlacesInFlight) -> None:
    """Both decide the same for each client and number of places."""
    for client in CLIENTS:
        for count in range(1, PLACES):
            assert places.is_above_share(client, count) == others.is_above_share(client, count)
            refused, same = (
                None if found is None else [request.ids for request in found]
                for found in (each.refuse_for_shares(client, count) for each in (places, others))
            )
            assert refused == same


@given(requests(), st.sampled_from(CLIENTS), st.integers(1, 3))
def test_room_is_made_only_below_half_and_only_by_requests_that_have_not_started(
    present: list[PlacesOfRequest], client: str, count: int
) -> None:
    held = held_by(present)
    refused = placed(*present).refuse_for_shares(client, count)
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
    assert not placed(*own).is_above_share(client, count)


def test_the_newest_request_of_the_largest_client_is_refused() -> None:
    present = [request_of("a", id, started=id < 4) for id in range(PLACES)]
    refused = placed(*present).refuse_for_shares("b", 2)
    assert refused is not None
    assert [request.ids for request in refused] == [[PLACES - 1], [PLACES - 2]]
    assert placed(*present).refuse_for_shares("a", 1) is None


def test_a_client_below_half_gets_a_place_beyond_the_limit_where_all_others_have_started() -> None:
    started = [request_of("a", id, started=True) for id in range(PLACES)]
    assert placed(*started).refuse_for_shares("b", EXTRA) == []
    assert placed(*started).refuse_for_shares("a", 1) is None
    waiting = [request_of("b", PLACES + id) for id in range(EXTRA)]
    assert placed(*started, *waiting).refuse_for_shares("b", 1) is None


def test_a_client_gets_no_place_above_half_while_another_waits() -> None:
    present = [request_of("a", id, started=True) for id in range(PLACES // 2)]
    waiting = request_of("b", 50)
    assert placed(*present, waiting).is_above_share("a", 1)
    assert not placed(*present, waiting).is_above_share("b", 1)
    waiting.started = True
    assert not placed(*present, waiting).is_above_share("a", 1)


@given(requests(), st.sampled_from(CLIENTS), st.sampled_from(CLIENTS))
def test_requests_of_a_client_that_is_another_one_are_counted_as_of_that(
    present: list[PlacesOfRequest], former: str, client: str
) -> None:
    places = placed(*present)
    own = [id for each in present if each.client == former for id in each.ids]
    assert places.rename(former, client) == own
    of_both = [client if each.client == former else each.client for each in present]
    renamed = [
        request_of(name, *each.ids, started=each.started)
        for name, each in zip(of_both, present, strict=True)
    ]
    assert_same(places, placed(*renamed))
    for id in [id for each in present for id in each.ids]:
        places.remove(id)
    assert_same(places, placed())


@given(requests(), st.randoms(use_true_random=False))
def test_places_are_counted_as_requests_come_start_and_end(
    present: list[PlacesOfRequest], random: Random
) -> None:
    places = placed(*present)
    ended = [id for request in present for id in request.ids if random.random() < 0.5]
    random.shuffle(ended)
    for id in ended:
        places.remove(id)
    left = [(each, [id for id in each.ids if id not in ended]) for each in present]
    again = placed(*(request_of(r.client, *ids, started=r.started) for r, ids in left if ids))
    assert_same(places, again)
