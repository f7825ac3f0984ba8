"""A log record is one line, whatever a client put into it, and a full disk stops nothing."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.logs import configure_logging

HOSTILE = "GET /x\n[INFO] FAKE \x1b[31m\u2028 \udc80"


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], logging.raiseExceptions = handlers, raises
    root.setLevel(level)


def log(form: str, message: str) -> str:
    stream = io.StringIO()
    configure_logging("info", form, stream)  # type: ignore[arg-type]
    logging.getLogger("test").info("%s", message)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json", "auto"])
def test_a_message_cannot_write_a_line_of_its_own(form: str) -> None:
    written = log(form, HOSTILE)
    assert len(written.splitlines()) == 1
    assert "\x1b" not in written


def test_json_lines_name_time_level_logger_and_message() -> None:
    line = json.loads(log("json", "hello"))
    assert line["level"] == "INFO"
    assert line["logger"] == "test"
    assert line["message"] == "hello"
    assert line["time"].endswith("+00:00")


def test_a_message_of_any_length_is_cut() -> None:
    assert len(log("json", "x" * 10_000_000)) < 10_000


def test_a_stream_that_is_no_terminal_gets_json() -> None:
    assert json.loads(log("auto", "hello"))["message"] == "hello"


def test_a_full_disk_stops_nothing() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    # Closing the stream tries to write once more.
    with contextlib.suppress(OSError), full.open("w", buffering=1) as stream:
        configure_logging("info", "text", stream)
        logging.getLogger("test").info("lost")
        logged = True
    assert logged
