"""One line a request, with what an operator looks for and nothing that was said."""

from __future__ import annotations

import logging

import pytest

from service.errors import Overloaded
from service.requestlog.access_log import AccessLog, details_of, fields_of, summary_of
from service.requestlog.record import RequestRecord
from tests.service.records import finished_record, scope


def record_for(path: str, **changes: object) -> RequestRecord:
    record = RequestRecord()
    record.status = 200
    record.end(scope(path, **changes))
    return record


def test_a_generation_is_told_with_its_tokens_and_times() -> None:
    fields = fields_of(finished_record())
    assert (fields["id"], fields["model"], fields["finish"]) == ("req_1", "m", "stop")
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (12, 4)
    assert (fields["queue_ms"], fields["prefill_ms"], fields["decode_ms"]) == (10, 20, 30)
    assert fields["first_token_ms"] >= 0


def test_people_read_the_same_on_one_line() -> None:
    record = finished_record()
    line = summary_of(record) + details_of(record)
    assert line.startswith("POST /v1/chat/completions 200 stop, m, 12 + 4 tokens, first after ")
    assert "queue 10, prefill 20, decode 30 ms" in line
    assert line.endswith(", req_1")


def test_the_clients_key_is_told_by_its_name() -> None:
    record = record_for("/v1/models", key_name="alice")
    assert fields_of(record)["key"] == "alice"
    assert "key alice" in details_of(record)


def test_an_error_is_told_by_its_code_never_by_its_words() -> None:
    record = RequestRecord()
    record.fail(Overloaded("words"))
    record.end(scope("/v1/chat/completions"))
    assert fields_of(record)["error"] == "overloaded"
    assert "words" not in str(fields_of(record)) + summary_of(record) + details_of(record)


def test_neither_prompt_nor_answer_is_told() -> None:
    record = finished_record(keeps_content=True)
    told = str(fields_of(record)) + summary_of(record) + details_of(record)
    assert "hello" not in told
    assert "world" not in told


@pytest.mark.parametrize("part", ["\r\n", "\x1b[31m", "\u2028", "\x00"])
def test_what_a_client_made_up_is_escaped_and_cut(part: str) -> None:
    record = record_for(f"/{part}" + "x" * 100_000, key_name=f"k{part}")
    told = summary_of(record) + details_of(record)
    assert told.isprintable()
    assert len(told) < 1000


@pytest.mark.parametrize(
    ("route", "level"),
    [
        ("/v1/models", logging.INFO),
        (None, logging.INFO),
        ("/health", logging.DEBUG),
        ("/metrics", logging.DEBUG),
    ],
)
def test_what_is_polled_is_told_only_to_who_debugs(
    route: str | None, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "service.requestlog.access_log")
    AccessLog().observe(record_for("/x", route=route))
    assert [line.levelno for line in caplog.records] == [level]
