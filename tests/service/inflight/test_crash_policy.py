"""After worker crashes only the requests that cause them are blamed; all others finish."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inflight.crash_policy import MARGIN_TOKENS, CrashPolicy, WorkerChanges

MANY = 8


def policy_with(count: int) -> CrashPolicy:
    policy = CrashPolicy()
    for id in range(1, count + 1):
        policy.add(id, "m")
    return policy


def test_new_requests_are_submitted_once_and_in_order() -> None:
    policy = policy_with(3)
    assert policy.take_changes() == WorkerChanges([], [1, 2, 3])
    assert policy.take_changes() == WorkerChanges([], [])
    assert policy.busy


def test_after_a_first_crash_all_requests_run_together() -> None:
    policy = policy_with(3)
    policy.take_changes()
    assert policy.record_crash(MANY) == []
    assert not policy.busy
    assert policy.take_changes() == WorkerChanges([], [1, 2, 3])


def test_after_a_second_crash_each_request_runs_alone_the_newest_first() -> None:
    policy = policy_with(3)
    for _ in range(2):
        policy.take_changes()
        assert policy.record_crash(MANY) == []
    assert policy.take_changes() == WorkerChanges([], [3])
    assert policy.record_progress(3, MARGIN_TOKENS)
    assert policy.take_changes() == WorkerChanges([3], [2])


def test_a_request_that_crashes_the_worker_alone_is_blamed_and_the_others_run_together() -> None:
    policy = policy_with(3)
    for _ in range(2):
        policy.take_changes()
        policy.record_crash(MANY)
    policy.take_changes()
    assert policy.record_crash(MANY) == [3]
    policy.remove(3)
    assert policy.take_changes() == WorkerChanges([], [1, 2])


def test_no_request_is_blamed_for_losses_that_none_can_cause() -> None:
    policy = policy_with(3)
    for _ in range(9):
        assert policy.take_changes() == WorkerChanges([], [1, 2, 3])
        policy.record_blameless_loss()
        assert not policy.busy


def test_a_single_request_is_blamed_at_the_second_crash() -> None:
    policy = policy_with(1)
    policy.take_changes()
    assert policy.record_crash(MANY) == []
    policy.take_changes()
    assert policy.record_crash(MANY) == [1]


def test_a_started_request_is_blamed_though_an_earlier_one_was_still_in_preparation() -> None:
    policy = policy_with(2)
    for blamed in ([], [2]):
        policy.take_changes()
        policy.record_started(2)
        assert policy.record_crash(max_running=1) == blamed


def test_a_request_that_started_on_an_earlier_worker_counts_as_waiting_on_the_next() -> None:
    policy = policy_with(2)
    policy.take_changes()
    policy.record_started(2)
    assert policy.record_crash(max_running=1) == []
    policy.take_changes()
    assert policy.record_crash(max_running=1) == []
    policy.take_changes()
    assert policy.record_crash(max_running=1) == [1]


def test_a_request_that_made_progress_since_a_crash_is_not_blamed_for_the_next_one() -> None:
    policy = policy_with(1)
    tokens = 0
    for _ in range(10):
        policy.take_changes()
        tokens += MARGIN_TOKENS
        policy.record_progress(1, tokens)
        assert policy.record_crash(MANY) == []


def test_a_crash_before_any_request_was_submitted_blames_none() -> None:
    policy = policy_with(2)
    for _ in range(5):
        assert policy.record_crash(MANY) == []
    assert policy.take_changes() == WorkerChanges([], [1, 2])


def test_a_request_that_waits_for_the_device_is_no_suspect() -> None:
    policy = policy_with(3)
    for _ in range(2):
        policy.take_changes()
        policy.record_crash(2)
    suspects = set()
    while (isolated := policy.isolated) is not None:
        suspects.add(isolated)
        policy.record_progress(isolated, MARGIN_TOKENS)
    assert suspects == {1, 2}


def test_the_limit_of_running_requests_counts_each_model_separately() -> None:
    policy = CrashPolicy()
    policy.add(1, "a")
    policy.add(2, "b")
    for _ in range(2):
        policy.take_changes()
        assert policy.record_crash(1) == []
    assert policy.take_changes() == WorkerChanges([], [2])


def test_a_request_that_arrives_while_another_is_isolated_waits() -> None:
    policy = policy_with(2)
    for _ in range(2):
        policy.take_changes()
        policy.record_crash(MANY)
    policy.add(3, "m")
    assert policy.take_changes() == WorkerChanges([], [2])
    policy.remove(2)
    assert policy.take_changes() == WorkerChanges([], [1])
    policy.remove(1)
    assert policy.take_changes() == WorkerChanges([], [3])


# ---------------------------------------------------------------- simulated workers


@dataclass
class Simulation:
    """Requests served by workers that crash.

    `crash_at` has the requests that crash the worker, and the token before which they do.
    `crowd` requests on the device crash the worker, whichever they are.
    """

    lengths: list[int]
    crash_at: dict[int, int]
    max_running: int
    crowd: int = 10**6
    policy: CrashPolicy = field(default_factory=CrashPolicy)
    tokens: dict[int, int] = field(default_factory=dict)
    blamed: set[int] = field(default_factory=set)
    crashes: int = 0

    def run(self) -> None:
        """Serve until no request is left."""
        for id in range(len(self.lengths)):
            self.tokens[id] = 0
            self.policy.add(id, "m")
        while self.tokens:
            self.run_worker()

    def run_worker(self) -> None:
        """One worker, from its start until it crashes or no request is left."""
        assigned: list[int] = []
        while self.tokens:
            changes = self.policy.take_changes()
            assigned = [id for id in assigned if id in self.tokens]
            assigned = [id for id in assigned if id not in changes.cancel] + changes.submit
            running = assigned[: self.max_running]
            if any(self.crashes_worker(id) for id in running) or len(running) >= self.crowd:
                self.crash()
                return
            for id in running:
                self.decode(id)

    def crashes_worker(self, id: int) -> bool:
        return self.crash_at.get(id) == self.tokens[id]

    def decode(self, id: int) -> None:
        self.tokens[id] += 1
        self.policy.record_progress(id, self.tokens[id])
        if self.tokens[id] == self.lengths[id]:
            self.end(id)

    def crash(self) -> None:
        self.crashes += 1
        for id in self.policy.record_crash(self.max_running):
            self.blamed.add(id)
            self.end(id)

    def end(self, id: int) -> None:
        del self.tokens[id]
        self.policy.remove(id)


lengths = st.lists(st.integers(1, 200), min_size=1, max_size=12)


@given(lengths, st.data(), st.integers(1, 12))
def test_exactly_the_requests_that_crash_the_worker_are_blamed_and_all_others_finish(
    lengths: list[int], data: st.DataObject, max_running: int
) -> None:
    ids = st.integers(0, len(lengths) - 1)
    crashing = data.draw(st.sets(ids, max_size=3))
    crash_at = {id: data.draw(st.integers(0, lengths[id] - 1)) for id in crashing}
    simulation = Simulation(lengths, crash_at, max_running)
    simulation.run()
    assert simulation.blamed == set(crash_at)
    assert simulation.crashes <= 3 * len(crash_at) + len(crash_at) ** 2


@given(lengths, st.integers(2, 6))
def test_requests_that_crash_the_worker_only_together_all_finish(
    lengths: list[int], crowd: int
) -> None:
    simulation = Simulation(lengths, {}, max_running=12, crowd=crowd)
    simulation.run()
    assert simulation.blamed == set()


@pytest.mark.parametrize("at", [0, 100])
def test_one_crashing_request_among_many_costs_three_crashes(at: int) -> None:
    simulation = Simulation([150] * 10, {9: at}, max_running=10)
    simulation.run()
    assert (simulation.blamed, simulation.crashes) == ({9}, 3)
