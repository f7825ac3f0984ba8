"""What a sequence has cost on workers that did not finish it is added to its end."""

from __future__ import annotations

from protocol.events import Finished, Parting, Progress, PromptUse, Started
from service.inflight.attempts import Attempts

USE = PromptUse(memory_tokens=10, computed_tokens=90, common_tokens=20, parted=Parting(20, True))
AGAIN = PromptUse(disk_tokens=60, computed_tokens=45, common_tokens=60)


def started(use: PromptUse = USE) -> Started:
    return Started(
        1,
        100,
        cached_tokens=use.memory_tokens + use.disk_tokens,
        queue_ms=5.0,
        preparation_ms=3.0,
        load_ms=2.0,
        use=use,
    )


def finished(use: PromptUse = AGAIN) -> Finished:
    return Finished(1, "stop", 100, 9, 1.0, 20.0, 30.0, cached_tokens=60, use=use)


def total_ms(end: Finished) -> float:
    times = (end.preparation_ms, end.load_ms, end.queue_ms, end.prefill_ms, end.decode_ms)
    return sum(times) + end.restart_ms


def test_the_end_of_a_first_attempt_is_the_workers() -> None:
    attempts = Attempts(7.0)
    attempts.submit(7.0)
    attempts.start(started(), 8.0)
    attempts.receive_token(9.0)
    assert attempts.complete(finished(USE)) is not None
    assert attempts.complete(finished(USE)) == finished(USE)


def test_a_crash_while_decoding_adds_times_and_tokens() -> None:
    attempts = Attempts(0.0)
    attempts.submit(0.0)
    attempts.start(started(), 0.010)
    attempts.receive_token(0.110)
    attempts.withdraw(0.610)
    attempts.submit(2.610)
    attempts.start(started(AGAIN), 2.620)
    end = attempts.complete(finished())
    assert (end.preparation_ms, end.load_ms, end.queue_ms) == (3.0, 2.0, 6.0)
    assert (round(end.prefill_ms), round(end.decode_ms), round(end.restart_ms)) == (120, 530, 2000)
    # What the cache had for the client's prompt is what it had at first.
    assert end.cached_tokens == 10
    assert end.use == PromptUse(
        memory_tokens=10, computed_tokens=135, common_tokens=20, parted=Parting(20, True)
    )


def test_a_crash_in_prefill_adds_what_was_computed_until_then() -> None:
    attempts = Attempts(0.0)
    attempts.submit(0.0)
    attempts.start(started(), 0.010)
    attempts.advance(Progress(1, 42, 100))
    attempts.withdraw(0.510)
    attempts.submit(0.510)
    end = attempts.complete(finished())
    assert end.use.computed_tokens == 32 + 45
    assert round(end.prefill_ms) == 520
    assert end.restart_ms == 0


def test_several_crashes_add_up() -> None:
    attempts = Attempts(0.0)
    for crash in range(3):
        attempts.submit(float(crash))
        attempts.withdraw(crash + 0.5)
    attempts.submit(3.0)
    end = attempts.complete(finished())
    assert round(total_ms(end)) == 3 * 500 + 3 * 500 + 51


def test_a_wait_for_the_first_worker_is_a_restart() -> None:
    attempts = Attempts(0.0)
    attempts.submit(4.0)
    attempts.start(started(), 4.1)
    assert attempts.complete(finished(USE)).restart_ms == 4000
