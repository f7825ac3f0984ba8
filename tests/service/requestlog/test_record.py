"""A record is filled from the events and errors of its request."""

from __future__ import annotations

import asyncio

import pytest

from protocol.events import Event, Started, TextDelta
from service.errors import ClientDisconnected, Overloaded
from service.requestlog.event_batch import count_events
from service.requestlog.record import RequestRecord, record_of
from tests.service.records import chat_submit, finished_record, make_finished, scope


def add(record: RequestRecord, *events: Event) -> None:
    record.add_events(count_events(list(events)))


def test_tokens_and_times_come_from_the_events() -> None:
    record = finished_record()
    assert (record.prompt_tokens, record.completion_tokens, record.finish) == (12, 4, "stop")
    assert (record.queue_s, record.prefill_s, record.decode_s) == (0.01, 0.02, 0.03)
    assert record.first_token_s is not None
    assert 0 <= record.first_token_s <= record.duration_s


def test_tokens_are_summed_over_the_sequences_and_times_are_the_longest() -> None:
    record = RequestRecord()
    record.set_generation("text_completion", "m", [chat_submit(), chat_submit()], stream=False)
    add(record, Started(1, 3), Started(2, 4), TextDelta(1, "a", [1]), TextDelta(2, "b", [1, 2]))
    add(
        record,
        make_finished(1, "stop", queue_ms=1.0, prefill_ms=2.0, decode_ms=3.0),
        make_finished(2, "length", queue_ms=4.0, prefill_ms=1.0, decode_ms=2.0),
    )
    assert (record.prompt_tokens, record.completion_tokens) == (7, 3)
    assert (record.queue_s, record.prefill_s, record.decode_s) == (0.004, 0.002, 0.003)
    assert record.finish == "length,stop"


def test_the_time_per_token_runs_from_the_first_token_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([100.0, 101.0, 103.5])
    monkeypatch.setattr("service.requestlog.record.time.monotonic", lambda: next(clock))
    record = RequestRecord()
    add(record, Started(1, 3), TextDelta(1, "a", [1]))
    # `decode_ms` of a resumed sequence covers only the last worker, so it is not used.
    end = make_finished(1, completion_tokens=6, decode_ms=1.0)
    add(record, TextDelta(1, "bcdef", [2, 3, 4, 5, 6]), end)
    assert record.first_token_s == 1.0
    assert record.each_token_s == 0.5


def test_a_single_token_has_no_time_per_token() -> None:
    record = RequestRecord()
    add(record, Started(1, 3), TextDelta(1, "a", [1]), make_finished(1, decode_ms=1.0))
    assert record.each_token_s is None


def test_the_first_token_is_reported_once_when_it_comes() -> None:
    reported: list[float] = []
    record = RequestRecord(on_first_token=reported.append)
    add(record, Started(1, 3))
    assert reported == []
    add(record, TextDelta(1, "a", [1]), TextDelta(1, "b", [2]))
    assert reported == [record.first_token_s]


def test_text_is_kept_only_if_content_is_enabled() -> None:
    assert finished_record().texts == {}
    assert finished_record(keeps_content=True).texts == {1: "world"}


def test_the_first_error_sets_finish_and_status() -> None:
    record = RequestRecord()
    record.fail(Overloaded("full"))
    record.fail(RuntimeError("later"))
    assert (record.finish, record.status) == ("overloaded", 429)


@pytest.mark.parametrize(
    ("error", "finish", "status"),
    [
        (ClientDisconnected("disconnected"), "client_disconnected", 499),
        (RuntimeError("secret"), "internal_error", 500),
        (asyncio.CancelledError(), "cancelled", 499),
    ],
)
def test_every_error_has_a_code_and_a_status(
    error: BaseException, finish: str, status: int
) -> None:
    record = RequestRecord()
    record.fail(error)
    assert (record.finish, record.status) == (finish, status)


def test_an_error_does_not_change_a_status_that_was_sent() -> None:
    record = RequestRecord()
    record.status = 200
    record.fail(ClientDisconnected("disconnected"))
    assert record.status == 200


def test_id_key_and_route_are_read_from_the_scope_at_the_end() -> None:
    record = RequestRecord()
    record.end(scope("/x", key_name="alice", route="/{any}"))
    assert (record.id, record.method, record.path) == ("req_1", "POST", "/x")
    assert (record.key, record.route) == ("alice", "/{any}")


def test_a_scope_without_a_record_gets_a_new_one() -> None:
    record = record_of({"type": "http"})
    add(record, TextDelta(1, "a", [1]))
    assert record.completion_tokens == 1
