"""One log line per request: the request, its result, its tokens and its times."""

from __future__ import annotations

import logging
from typing import Any

from protocol.units import MS_PER_S
from service.errors import excerpt
from service.requestlog.record import RequestRecord

logger = logging.getLogger(__name__)

PATH_LIMIT_CHARS = 200
# Polled by monitors or loaded with the page: logged at the level DEBUG.
POLLED_ROUTES = ("/health", "/metrics", "/status")
PAGE_ROUTES = ("/", "/assets/{name}")


class AccessLog:
    """Logs each request that ends, without its content."""

    def observe(self, record: RequestRecord) -> None:
        """Log a request that has ended."""
        level = logging.DEBUG if record.route in POLLED_ROUTES + PAGE_ROUTES else logging.INFO
        if logger.isEnabledFor(level):
            extra = {"request": fields_of(record), "details": details_of(record)}
            logger.log(level, "%s", summary_of(record), extra=extra)


def fields_of(record: RequestRecord) -> dict[str, Any]:
    """The fields of the log line, without those that do not apply."""
    fields: dict[str, Any] = {
        "id": record.id,
        "method": excerpt(record.method, 20),
        "path": excerpt(record.path, PATH_LIMIT_CHARS),
        "status": record.status,
        "key": record.key and excerpt(record.key, 100),
        "error": record.error_code,
        "total_ms": in_ms(record.duration_s),
    }
    if record.model is not None:
        fields |= {
            "model": record.model,
            "stream": record.stream,
            "finish": record.finish,
            "prompt_tokens": record.prompt_tokens,
            "cached_tokens": record.cached_tokens,
            "completion_tokens": record.completion_tokens,
            "restarts": record.restarts or None,
            "first_token_ms": None if record.first_token_s is None else in_ms(record.first_token_s),
        }
        if record.finished:
            fields |= {
                "queue_ms": in_ms(record.queue_s),
                "prefill_ms": in_ms(record.prefill_s),
                "decode_ms": in_ms(record.decode_s),
            }
    return {name: value for name, value in fields.items() if value is not None}


def summary_of(record: RequestRecord) -> str:
    """The request and its result."""
    path = excerpt(record.path, PATH_LIMIT_CHARS)
    return f"{excerpt(record.method, 20)} {path} {record.status} {record.finish or ''}".rstrip()


def details_of(record: RequestRecord) -> str:
    """The other fields as text; it follows the summary."""
    parts = [""]
    if record.model is not None:
        cached = f" ({record.cached_tokens} cached)" if record.cached_tokens else ""
        tokens = f"{record.prompt_tokens}{cached} + {record.completion_tokens} tokens"
        parts += [record.model, tokens]
    if record.first_token_s is not None:
        parts.append(f"first after {in_ms(record.first_token_s):g} ms")
    if record.finished:
        queue, prefill, decode = record.queue_s, record.prefill_s, record.decode_s
        parts.append(
            f"queue {in_ms(queue):g}, prefill {in_ms(prefill):g}, decode {in_ms(decode):g} ms"
        )
    if record.restarts:
        parts.append(f"restarts {record.restarts}")
    parts.append(f"total {in_ms(record.duration_s):g} ms")
    if record.key is not None:
        parts.append(f"key {excerpt(record.key, 100)}")
    return ", ".join([*parts, record.id])


def in_ms(seconds: float) -> float:
    """Milliseconds, rounded to 0.1 ms."""
    return round(seconds * MS_PER_S, 1)
