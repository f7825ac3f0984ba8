"""A client's text never starts a log line, and a full disk or a blocked stream stops nothing."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider

from service.host.log_setup import TRACEBACK_MARGIN, LogFile, configure_logging
from tests.waiting import HANG_S


class BlockedStream(io.StringIO):
    """A stream whose writes block until `release` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()

    def write(self, text: str) -> int:
        self.release.wait(HANG_S)
        return super().write(text)


HOSTILE = "GET /x\n[INFO] FAKE \x1b[31m\u2028 \udc80"


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield
    for handler in set(root.handlers) - set(handlers):
        with contextlib.suppress(OSError):
            handler.close()
    root.handlers[:], logging.raiseExceptions = handlers, raises
    root.setLevel(level)


def log(form: str, message: str) -> str:
    stream = io.StringIO()
    flush = configure_logging("info", form, stream)  # type: ignore[arg-type]
    logging.getLogger("test").info("%s", message)
    flush()
    return stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json", "auto"])
def test_a_message_cannot_start_a_new_line(form: str) -> None:
    output = log(form, HOSTILE)
    assert len(output.splitlines()) == 1
    assert "\x1b" not in output


def test_json_lines_have_time_level_logger_and_message() -> None:
    line = json.loads(log("json", "hello"))
    assert line["level"] == "INFO"
    assert line["logger"] == "test"
    assert line["message"] == "hello"
    assert line["time"].endswith("+00:00")


def test_a_long_message_is_truncated() -> None:
    assert len(log("json", "x" * 10_000_000)) < 10_000


def test_the_automatic_format_is_json_on_a_stream_that_is_not_a_terminal() -> None:
    assert json.loads(log("auto", "hello"))["message"] == "hello"


def test_a_full_disk_stops_nothing() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    # Closing the stream tries to write once more.
    with contextlib.suppress(OSError), full.open("w", buffering=1) as stream:
        flush = configure_logging("info", "text", stream)
        logging.getLogger("test").info("lost")
        flush()
        logged = True
    assert logged


def test_a_full_log_file_is_rotated_and_the_oldest_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "mlxd.log"
    flush = configure_logging("info", "text", file=LogFile(path, max_bytes=1000, backups=2))
    for number in range(100):
        logging.getLogger("test").info("line %d", number)
    flush()
    assert {file.name for file in tmp_path.iterdir()} == {"mlxd.log", "mlxd.log.1", "mlxd.log.2"}
    assert all(file.stat().st_size <= 1000 for file in tmp_path.iterdir())
    assert "line 99" in path.read_text()


def test_a_log_file_gets_json_and_a_message_cannot_start_a_new_line(tmp_path: Path) -> None:
    path = tmp_path / "mlxd.log"
    flush = configure_logging("info", "auto", file=LogFile(path, max_bytes=10**6, backups=1))
    logging.getLogger("test").info("%s", HOSTILE)
    flush()
    [line] = path.read_text().splitlines()
    assert json.loads(line)["logger"] == "test"


def test_logging_does_not_wait_for_a_blocked_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.host.log_setup.MAX_QUEUED_RECORDS", 4)
    blocked = BlockedStream()
    flush = configure_logging("info", "json", blocked)
    for number in range(20):
        logging.getLogger("test").info("line %d", number)
    blocked.release.set()
    flush()
    lines = [json.loads(line)["message"] for line in blocked.getvalue().splitlines()]
    written = [line for line in lines if line.startswith("line ")]
    [notice] = [line for line in lines if "dropped" in line]
    assert notice.startswith(f"{20 - len(written)} lines")


def test_every_line_of_a_traceback_is_after_the_margin() -> None:
    stream = io.StringIO()
    flush = configure_logging("info", "text", stream)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("test").exception("failed")
    flush()
    first, *others = stream.getvalue().splitlines()
    assert "failed" in first
    assert all(line.startswith(TRACEBACK_MARGIN) for line in others)
    assert "\x1b" not in stream.getvalue()


def test_a_line_logged_in_a_trace_has_its_id() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    stream = io.StringIO()
    flush = configure_logging("info", "json", stream)
    with provider.get_tracer("test").start_as_current_span("x") as span:
        logging.getLogger("test").info("within")
    flush()
    assert json.loads(stream.getvalue())["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert "trace_id" not in log("json", "without")
