"""Log lines: for people on a terminal, JSON elsewhere. One record is always one line.

They are written by a thread of their own, so that a terminal that is held, a pipe that
nobody reads or a full disk stops no request. Lines past its bound are lost, and counted.
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

from service.host.standard_streams import STANDARD_ERROR, open_standard_stream

LINE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MESSAGE_LIMIT_CHARS = 4000
TRACEBACK_LIMIT_LINES = 200
TRACEBACK_MARGIN = "  | "
WAITING_LINES = 10_000
FLUSH_S = 2.0

Flush = Callable[[], None]


class TextFormatter(logging.Formatter):
    """Readable lines; only a traceback goes over several, behind a margin."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        details = getattr(record, "details", "")
        return escape(super().formatMessage(record) + details + trace_of(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's name)
        return "\n".join(TRACEBACK_MARGIN + line for line in traceback_of(self, ei))


class JsonFormatter(logging.Formatter):
    """One JSON object a record."""

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
            line["traceback"] = "\n".join(traceback_of(self, record.exc_info))
        return msgspec.json.encode(line).decode()


class BackgroundHandler(logging.Handler):
    """Hands records to a thread that writes them by `target`.

    That thread holds no lock while it writes: Python's end would wait for it.
    """

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._waiting: queue.Queue[logging.LogRecord | None] = queue.Queue(WAITING_LINES)
        self._lost = 0
        self._thread = threading.Thread(target=self._write, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        note_trace(record)
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._lost += 1

    def flush_within(self, seconds: float) -> None:
        """Write what waits, and stop; what takes longer is lost."""
        try:
            self._waiting.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def close(self) -> None:
        self._target.close()
        super().close()

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            self._target.emit(record)
            if self._lost:
                lost, self._lost = self._lost, 0
                message = f"{lost} lines before this one are lost: they could not be written"
                told = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING"}
                self._target.emit(logging.makeLogRecord({**told, "msg": message}))


def escape(text: str) -> str:
    """`text` on one line: a client's control characters cannot write a line of their own."""
    shown = text[:MESSAGE_LIMIT_CHARS]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


class LogFile(NamedTuple):
    """A file to log to: set aside at `max_bytes`, with `kept` of those set aside beside it."""

    path: Path
    max_bytes: int
    kept: int


def traceback_of(formatter: logging.Formatter, exc_info: Any) -> list[str]:
    """A traceback's lines, bounded; the texts of exceptions may be a client's."""
    lines = logging.Formatter.formatException(formatter, exc_info).split("\n")
    return [escape(line) for line in lines[-TRACEBACK_LIMIT_LINES:]]


def note_trace(record: logging.LogRecord) -> None:
    """Note the trace that this is logged in, if there is one."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        record.trace_id = trace.format_trace_id(context.trace_id)
        record.span_id = trace.format_span_id(context.span_id)


def trace_of(record: logging.LogRecord) -> str:
    """What a readable line says of its trace."""
    trace_id = getattr(record, "trace_id", None)
    return f", trace {trace_id}" if trace_id else ""


def configure_logging(
    level: str,
    form: Literal["auto", "text", "json"],
    stream: TextIO | None = None,
    file: LogFile | None = None,
) -> Flush:
    """Log to `file`, or to `stream`, from `level` on; what writes the last lines.

    `stream` is standard error by default. One that is closed, full or stuck stops nothing.

    Raises:
        OSError: the file cannot be opened.
    """
    stream = stream or open_standard_stream(STANDARD_ERROR)
    text = stream.isatty() and file is None if form == "auto" else form == "text"
    handler = open_handler(file) if file else logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(LINE_FORMAT) if text else JsonFormatter())
    background = BackgroundHandler(handler)
    logging.basicConfig(level=level.upper(), handlers=[background], force=True)
    # A full disk must not fill the log with tracebacks about itself.
    logging.raiseExceptions = False
    return lambda: background.flush_within(FLUSH_S)


def open_handler(file: LogFile) -> logging.Handler:
    """What writes to a file, and sets it aside in time: launchd does not."""
    path = file.path.expanduser()
    return RotatingFileHandler(
        path, maxBytes=file.max_bytes, backupCount=file.kept, encoding="utf-8", errors="replace"
    )
