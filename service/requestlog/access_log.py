"""One log line per request: the request, its result, its tokens and its times."""

from __future__ import annotations

import logging
from typing import Any

from protocol.events import Parting, PromptUse
from protocol.units import MS_PER_S
from service.errors import excerpt
from service.requestlog.record import PHASES, RequestRecord

logger = logging.getLogger(__name__)

PATH_LIMIT_CHARS = 200
# Polled by monitors or loaded with the page: logged at the level DEBUG.
POLLED_ROUTES = ("/health", "/metrics", "/status")
PAGE_ROUTES = ("/", "/assets/{name}")
ALWAYS_SHOWN = ("queue", "prefill", "decode")


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
            fields |= times_of(record) | tokens_of(record.use)
    return {name: value for name, value in fields.items() if value is not None}


def times_of(record: RequestRecord) -> dict[str, float]:
    """The time in each phase, without those rare ones that took none."""
    times = {phase: in_ms(record.phase_s(phase)) for phase in PHASES}
    return {f"{phase}_ms": ms for phase, ms in times.items() if ms or phase in ALWAYS_SHOWN}


def tokens_of(use: PromptUse) -> dict[str, Any]:
    """Where the prompts' tokens came from, and where the first prompt parted from a known one."""
    fields: dict[str, Any] = {
        "memory_tokens": use.memory_tokens,
        "disk_tokens": use.disk_tokens,
        "shared_tokens": use.shared_tokens,
        "computed_tokens": use.computed_tokens,
        "common_tokens": use.common_tokens,
    }
    if use.parted is not None:
        fields |= {
            "parted_token": use.parted.token,
            "parted_differs": use.parted.differs,
            "parted_message": use.parted.message,
            "parted_role": use.parted.role,
        }
    return fields


def describe_cached(record: RequestRecord) -> str:
    """How many of the prompts' tokens were cached or shared; nothing if none were."""
    counts = {
        "cached": record.cached_tokens,
        "from disk": record.use.disk_tokens,
        "shared": record.use.shared_tokens,
    }
    shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f" ({shown})" if shown else ""


def describe_parting(parted: Parting) -> str:
    """Where a prompt parted from the closest known one."""
    where = "" if parted.message is None else f" in message {parted.message}"
    role = "" if parted.role is None else f" ({excerpt(parted.role, 20)})"
    return f"{'parted' if parted.differs else 'new'} from token {parted.token}{where}{role}"


def summary_of(record: RequestRecord) -> str:
    """The request and its result."""
    path = excerpt(record.path, PATH_LIMIT_CHARS)
    return f"{excerpt(record.method, 20)} {path} {record.status} {record.finish or ''}".rstrip()


def details_of(record: RequestRecord) -> str:
    """The other fields as text; it follows the summary."""
    parts = [""]
    if record.model is not None:
        cached = describe_cached(record)
        tokens = f"{record.prompt_tokens}{cached} + {record.completion_tokens} tokens"
        parts += [record.model, tokens]
    if record.first_token_s is not None:
        parts.append(f"first after {in_ms(record.first_token_s):g} ms")
    if record.finished:
        times = times_of(record).items()
        parts.append(", ".join(f"{name.removesuffix('_ms')} {ms:g}" for name, ms in times) + " ms")
        if (parted := record.use.parted) is not None and record.use.common_tokens:
            parts.append(describe_parting(parted))
    if record.restarts:
        parts.append(f"restarts {record.restarts}")
    parts.append(f"total {in_ms(record.duration_s):g} ms")
    if record.key is not None:
        parts.append(f"key {excerpt(record.key, 100)}")
    return ", ".join([*parts, record.id])


def in_ms(seconds: float) -> float:
    """Milliseconds, rounded to 0.1 ms."""
    return round(seconds * MS_PER_S, 1)
