"""Log lines: for people on a terminal, JSON elsewhere. One record is always one line."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

import msgspec

LINE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
MESSAGE_LIMIT_CHARS = 4000


class TextFormatter(logging.Formatter):
    """Readable lines; only a traceback of ours goes over several."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        return escape(super().formatMessage(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a record."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": escape(record.getMessage()),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def escape(text: str) -> str:
    """`text` on one line: a client's control characters cannot write a line of their own."""
    shown = text[:MESSAGE_LIMIT_CHARS]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


def configure_logging(
    level: str, form: Literal["auto", "text", "json"], stream: TextIO = sys.stderr
) -> None:
    """Log to `stream` from `level` on. A stream that cannot be written to stops nothing."""
    text = stream.isatty() if form == "auto" else form == "text"
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(LINE_FORMAT) if text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # A full disk must not fill the log with tracebacks about itself.
    logging.raiseExceptions = False
