"""A record knows what happened to a request, from its events and its errors."""

from __future__ import annotations

import asyncio

import pytest

from protocol.messages import Event, Finished, Started, TextDelta
from service.errors import ClientDisconnected, Overloaded
from service.requestlog.event_batch import count_events
from service.requestlog.record import RequestRecord, record_of
from tests.service.records import finished_record, scope, submit


def add(record: RequestRecord, events: list[Event]) -> None:
    record.add_events(count_events(events))


def test_tokens_and_times_come_from_the_events() -> None:
    record = finished_record()
    assert (record.prompt_tokens, record.completion_tokens, record.finish) == (12, 4, "stop")
    assert (record.queue_s, record.prefill_s, record.decode_s) == (0.01, 0.02, 0.03)
    assert record.first_token_s is not None
    assert 0 <= record.first_token_s <= record.duration_s


def test_the_sequences_of_one_request_are_added_up() -> None:
    record = RequestRecord()
    record.ask("text_completion", "m", [submit(), submit()], stream=False)
    record.add_events(
        count_events(
            [Started(1, 3), Started(2, 4), TextDelta(1, "a", [1]), TextDelta(2, "b", [1, 2])]
        )
    )
    record.add_events(
        count_events(
            [Finished(1, "stop", 3, 1, 1.0, 2.0, 3.0), Finished(2, "length", 4, 2, 4.0, 1.0, 2.0)]
        )
    )
    assert (record.prompt_tokens, record.completion_tokens) == (7, 3)
    assert (record.queue_s, record.prefill_s, record.decode_s) == (0.004, 0.002, 0.003)
    assert record.finish == "length,stop"


def test_the_time_of_each_token_runs_from_the_first_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([100.0, 101.0, 103.5])
    monkeypatch.setattr("service.requestlog.record.time.monotonic", lambda: next(clock))
    record = RequestRecord()
    add(record, [Started(1, 3), TextDelta(1, "a", [1])])
    # Of the decoding before a new worker took over, its timings know nothing.
    record.add_events(
        count_events(
            [TextDelta(1, "bcdef", [2, 3, 4, 5, 6]), Finished(1, "stop", 3, 6, 0.0, 0.0, 1.0)]
        )
    )
    assert record.first_token_s == 1.0
    assert record.each_token_s == 0.5


def test_one_token_has_no_time_between_tokens() -> None:
    record = RequestRecord()
    record.add_events(
        count_events(
            [Started(1, 3), TextDelta(1, "a", [1]), Finished(1, "stop", 3, 1, 0.0, 0.0, 1.0)]
        )
    )
    assert record.each_token_s is None


def test_the_first_token_is_told_once_as_it_comes() -> None:
    told: list[float] = []
    record = RequestRecord(on_first_token=told.append)
    add(record, [Started(1, 3)])
    assert told == []
    add(record, [TextDelta(1, "a", [1]), TextDelta(1, "b", [2])])
    assert told == [record.first_token_s]


def test_text_is_kept_only_where_that_is_asked_for() -> None:
    assert finished_record().texts == {}
    assert finished_record(keeps_content=True).texts == {1: "world"}


def test_the_first_error_is_how_it_ended() -> None:
    record = RequestRecord()
    record.fail(Overloaded("full"))
    record.fail(RuntimeError("later"))
    assert (record.finish, record.status) == ("overloaded", 429)


@pytest.mark.parametrize(
    ("error", "finish", "status"),
    [
        (ClientDisconnected("gone"), "client_disconnected", 499),
        (RuntimeError("secret"), "internal_error", 500),
        (asyncio.CancelledError(), "cancelled", 499),
    ],
)
def test_every_error_has_a_name_and_a_status(
    error: BaseException, finish: str, status: int
) -> None:
    record = RequestRecord()
    record.fail(error)
    assert (record.finish, record.status) == (finish, status)


def test_the_status_that_was_sent_stays() -> None:
    record = RequestRecord()
    record.status = 200
    record.fail(ClientDisconnected("gone"))
    assert record.status == 200


def test_who_asked_and_what_for_is_read_from_the_scope_at_the_end() -> None:
    record = RequestRecord()
    record.end(scope("/x", key_name="alice", route="/{any}"))
    assert (record.id, record.method, record.path) == ("req_1", "POST", "/x")
    assert (record.key, record.route) == ("alice", "/{any}")


def test_a_scope_without_a_record_gets_one_that_nobody_reads() -> None:
    record_of({"type": "http"}).add_events(count_events([TextDelta(1, "a", [1])]))
