"""The log line of a request has its tokens and times, and no content."""

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


def test_a_generation_is_logged_with_its_tokens_and_times() -> None:
    fields = fields_of(finished_record())
    assert (fields["id"], fields["model"], fields["finish"]) == ("req_1", "m", "stop")
    assert (fields["prompt_tokens"], fields["completion_tokens"]) == (12, 4)
    assert (fields["queue_ms"], fields["prefill_ms"], fields["decode_ms"]) == (10, 20, 30)
    assert fields["first_token_ms"] >= 0


def test_the_line_as_text_has_the_same_fields() -> None:
    record = finished_record()
    line = summary_of(record) + details_of(record)
    assert line.startswith("POST /v1/chat/completions 200 stop, m, 12 + 4 tokens, first after ")
    assert "queue 10, prefill 20, decode 30 ms" in line
    assert line.endswith(", req_1")


def test_the_key_is_logged_by_its_name() -> None:
    record = record_for("/v1/models", key_name="alice")
    assert fields_of(record)["key"] == "alice"
    assert "key alice" in details_of(record)


def test_an_error_is_logged_by_its_code_without_its_message() -> None:
    record = RequestRecord()
    record.fail(Overloaded("private"))
    record.end(scope("/v1/chat/completions"))
    assert fields_of(record)["error"] == "overloaded"
    assert "private" not in str(fields_of(record)) + summary_of(record) + details_of(record)


def test_neither_prompt_nor_answer_is_logged() -> None:
    record = finished_record(keeps_content=True)
    line = str(fields_of(record)) + summary_of(record) + details_of(record)
    assert "hello" not in line
    assert "world" not in line


@pytest.mark.parametrize("part", ["\r\n", "\x1b[31m", "\u2028", "\x00"])
def test_text_from_the_client_is_escaped_and_shortened(part: str) -> None:
    record = record_for(f"/{part}" + "x" * 100_000, key_name=f"k{part}")
    line = summary_of(record) + details_of(record)
    assert line.isprintable()
    assert len(line) < 1000


@pytest.mark.parametrize(
    ("route", "level"),
    [
        ("/v1/models", logging.INFO),
        (None, logging.INFO),
        ("/health", logging.DEBUG),
        ("/metrics", logging.DEBUG),
    ],
)
def test_polled_routes_are_logged_only_at_the_level_debug(
    route: str | None, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "service.requestlog.access_log")
    AccessLog().observe(record_for("/x", route=route))
    assert [line.levelno for line in caplog.records] == [level]
