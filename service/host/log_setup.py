"""Logging: text on a terminal, JSON elsewhere. A client's text never starts a new line.

A background thread writes the records, so that a paused terminal, a pipe without a reader or a
full disk never blocks a request. Records that do not fit into its queue are dropped and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO

import msgspec
from opentelemetry import trace

from service.config.secrets import conceal_secrets
from service.host.standard_streams import STANDARD_ERROR, open_standard_stream

LINE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MESSAGE_LIMIT_CHARS = 4000
TRACEBACK_LIMIT_LINES = 200
TRACEBACK_MARGIN = "  | "
MAX_QUEUED_RECORDS = 10_000
FLUSH_S = 2.0

Flush = Callable[[], None]


class TextFormatter(logging.Formatter):
    """One line of text per record; only tracebacks have more lines, each after a margin."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        details = getattr(record, "details", "")
        return escape(super().formatMessage(record) + details + trace_suffix(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        return "\n".join(TRACEBACK_MARGIN + line for line in format_traceback(self, ei))


class JsonFormatter(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": escape(record.getMessage()),
        }
        for name in ("request", "trace_id", "span_id"):
            if (value := getattr(record, name, None)) is not None:
                line[name] = value
        if record.exc_info:
            line["traceback"] = "\n".join(format_traceback(self, record.exc_info))
        return msgspec.json.encode(line).decode()


class BackgroundHandler(logging.Handler):
    """Queues records for a thread that writes them with `target`.

    The thread holds no lock while it writes, because Python would wait for the lock at its end.
    """

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._queue: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_QUEUED_RECORDS)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        add_trace_ids(record)
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def flush_within(self, seconds: float) -> None:
        """Write the queued records, and stop; those not written within `seconds` are dropped."""
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def close(self) -> None:
        self._target.close()
        super().close()

    def _write(self) -> None:
        while (record := self._queue.get()) is not None:
            self._target.emit(record)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                message = f"{dropped} lines before this one were dropped: the log's output blocked"
                fields = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
                self._target.emit(logging.makeLogRecord({**fields, "msg": message}))


def escape(text: str) -> str:
    """The first part of `text` without secrets, with control characters and line breaks escaped."""
    # Concealed first: a secret that is cut off may not be recognised.
    limited = conceal_secrets(text[: 2 * MESSAGE_LIMIT_CHARS])[:MESSAGE_LIMIT_CHARS]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in limited)


class LogFile(NamedTuple):
    """A log file. It is rotated at `max_bytes`, and the last `backups` files are kept."""

    path: Path
    max_bytes: int
    backups: int


def format_traceback(formatter: logging.Formatter, exc_info: Any) -> list[str]:
    """The last lines of a traceback, escaped, because an exception may contain a client's text."""
    lines = logging.Formatter.formatException(formatter, exc_info).split("\n")
    return [escape(line) for line in lines[-TRACEBACK_LIMIT_LINES:]]


def add_trace_ids(record: logging.LogRecord) -> None:
    """Add the ids of the current trace and span to the record, if there is one."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        record.trace_id = trace.format_trace_id(context.trace_id)
        record.span_id = trace.format_span_id(context.span_id)


def trace_suffix(record: logging.LogRecord) -> str:
    """The trace id for the end of a text line, if the record has one."""
    trace_id = getattr(record, "trace_id", None)
    return f", trace {trace_id}" if trace_id else ""


def configure_logging(
    level: str,
    form: Literal["auto", "text", "json"],
    stream: TextIO | None = None,
    file: LogFile | None = None,
) -> Flush:
    """Log to `file`, or else to `stream`, from `level` on. The result writes the last records.

    `stream` is standard error by default. If it is closed, full or blocked, requests go on.

    Raises:
        OSError: the file cannot be opened.
    """
    stream = stream or open_standard_stream(STANDARD_ERROR)
    text = stream.isatty() and file is None if form == "auto" else form == "text"
    handler = open_handler(file) if file else logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(LINE_FORMAT) if text else JsonFormatter())
    background = BackgroundHandler(handler)
    logging.basicConfig(level=level.upper(), handlers=[background], force=True)
    # With a full disk, logging must not print a traceback for every record.
    logging.raiseExceptions = False
    return lambda: background.flush_within(FLUSH_S)


def open_handler(file: LogFile) -> logging.Handler:
    """A handler that writes to a file and rotates it; launchd rotates no logs."""
    return RotatingFileHandler(
        file.path.expanduser(),
        maxBytes=file.max_bytes,
        backupCount=file.backups,
        encoding="utf-8",
        errors="replace",
    )
