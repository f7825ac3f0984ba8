"""After deaths of workers: all innocent requests finish, each culprit alone is convicted."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inflight.crash_policy import MARGIN_TOKENS, Change, CrashPolicy

MANY = 8


def revival_of(count: int) -> CrashPolicy:
    revival = CrashPolicy()
    for id in range(1, count + 1):
        revival.join(id, "m")
    return revival


def test_all_that_arrived_is_given_once_and_in_order() -> None:
    revival = revival_of(3)
    assert revival.change() == Change([], [1, 2, 3])
    assert revival.change() == Change([], [])
    assert revival.busy


def test_after_a_first_death_all_go_on_together() -> None:
    revival = revival_of(3)
    revival.change()
    assert revival.lose(MANY) == []
    assert not revival.busy
    assert revival.change() == Change([], [1, 2, 3])


def test_after_a_second_death_each_is_tried_alone_the_newest_first() -> None:
    revival = revival_of(3)
    for _ in range(2):
        revival.change()
        assert revival.lose(MANY) == []
    assert revival.change() == Change([], [3])
    assert revival.advance(3, MARGIN_TOKENS)
    assert revival.change() == Change([3], [2])


def test_one_that_kills_the_worker_alone_is_convicted_and_the_others_go_on_together() -> None:
    revival = revival_of(3)
    for _ in range(2):
        revival.change()
        revival.lose(MANY)
    revival.change()
    assert revival.lose(MANY) == [3]
    revival.leave(3)
    assert revival.change() == Change([], [1, 2])


def test_a_request_by_itself_is_convicted_at_its_second_death() -> None:
    revival = revival_of(1)
    revival.change()
    assert revival.lose(MANY) == []
    revival.change()
    assert revival.lose(MANY) == [1]


def test_one_that_got_beyond_its_mark_is_not_blamed_for_the_next_death() -> None:
    revival = revival_of(1)
    tokens = 0
    for _ in range(10):
        revival.change()
        tokens += MARGIN_TOKENS
        revival.advance(1, tokens)
        assert revival.lose(MANY) == []


def test_a_death_before_anything_was_given_blames_nobody() -> None:
    revival = revival_of(2)
    for _ in range(5):
        assert revival.lose(MANY) == []
    assert revival.change() == Change([], [1, 2])


def test_what_only_waits_for_the_device_is_never_on_trial() -> None:
    revival = revival_of(3)
    for _ in range(2):
        revival.change()
        revival.lose(2)
    tried = set()
    while (trial := revival.isolated) is not None:
        tried.add(trial)
        revival.advance(trial, MARGIN_TOKENS)
    assert tried == {1, 2}


def test_each_model_has_its_own_places_on_the_device() -> None:
    revival = CrashPolicy()
    revival.join(1, "a")
    revival.join(2, "b")
    for _ in range(2):
        revival.change()
        assert revival.lose(1) == []
    assert revival.change() == Change([], [2])


def test_what_arrives_during_a_trial_waits_for_its_end() -> None:
    revival = revival_of(2)
    for _ in range(2):
        revival.change()
        revival.lose(MANY)
    revival.join(3, "m")
    assert revival.change() == Change([], [2])
    revival.leave(2)
    assert revival.change() == Change([], [1])
    revival.leave(1)
    assert revival.change() == Change([], [3])


# ---------------------------------------------------------------- a world of workers


@dataclass
class World:
    """Requests by length, those that kill at a token of theirs, and workers that serve them."""

    lengths: list[int]
    deadly: dict[int, int]
    max_running: int
    crowd: int = 10**6  # this many together kill, whoever they are
    revival: CrashPolicy = field(default_factory=CrashPolicy)
    tokens: dict[int, int] = field(default_factory=dict)
    blamed: set[int] = field(default_factory=set)
    deaths: int = 0

    def run(self) -> None:
        """Serve until nothing is left."""
        for id in range(len(self.lengths)):
            self.tokens[id] = 0
            self.revival.join(id, "m")
        while self.tokens:
            self.serve()

    def serve(self) -> None:
        """One worker, from its start to its death or to the end of all work."""
        given: list[int] = []
        while self.tokens:
            change = self.revival.change()
            given = [id for id in given if id in self.tokens and id not in change.take]
            given += change.give
            running = given[: self.max_running]
            if any(self.kills(id) for id in running) or len(running) >= self.crowd:
                self.die()
                return
            for id in running:
                self.decode(id)

    def kills(self, id: int) -> bool:
        return self.deadly.get(id) == self.tokens[id]

    def decode(self, id: int) -> None:
        self.tokens[id] += 1
        self.revival.advance(id, self.tokens[id])
        if self.tokens[id] == self.lengths[id]:
            self.end(id)

    def die(self) -> None:
        self.deaths += 1
        for id in self.revival.lose(self.max_running):
            self.blamed.add(id)
            self.end(id)

    def end(self, id: int) -> None:
        del self.tokens[id]
        self.revival.leave(id)


lengths = st.lists(st.integers(1, 200), min_size=1, max_size=12)


@given(lengths, st.data(), st.integers(1, 12))
def test_exactly_the_requests_that_kill_are_convicted_and_all_others_finish(
    lengths: list[int], data: st.DataObject, max_running: int
) -> None:
    ids = st.integers(0, len(lengths) - 1)
    chosen = data.draw(st.sets(ids, max_size=3))
    deadly = {id: data.draw(st.integers(0, lengths[id] - 1)) for id in chosen}
    world = World(lengths, deadly, max_running)
    world.run()
    assert world.blamed == set(deadly)
    assert world.deaths <= 3 * len(deadly) + len(deadly) ** 2


@given(lengths, st.integers(2, 6))
def test_requests_that_kill_only_together_all_finish(lengths: list[int], crowd: int) -> None:
    world = World(lengths, {}, max_running=12, crowd=crowd)
    world.run()
    assert world.blamed == set()


@pytest.mark.parametrize("at", [0, 100])
def test_one_culprit_among_many_costs_three_deaths(at: int) -> None:
    world = World([150] * 10, {9: at}, max_running=10)
    world.run()
    assert (world.blamed, world.deaths) == ({9}, 3)
