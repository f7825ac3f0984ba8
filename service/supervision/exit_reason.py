"""Describes why a worker exited."""

from __future__ import annotations

import logging
import re
import signal

import msgspec

from service.config.secrets import conceal_secrets
from service.errors import excerpt
from service.schema.health import WorkerPhase

logger = logging.getLogger(__name__)

# How much of the end of a worker's standard error is part of a reason.
LAST_WORDS_CHARS = 1000
LOGGED_LAST_WORDS_CHARS = 3800
# How an aborted process says why, on standard error: the C++ libraries of macOS and of Linux,
# and MLX.
ABORT_MESSAGE = re.compile(
    r"(?:libc\+\+abi|terminat(?:e|ing)|what\(\)|\[metal)[^\n]*", re.IGNORECASE
)

# How MLX's and the system's allocators report a failure, in a worker's fatal message; a thread
# cannot start without memory for its stack.
ALLOCATION_FAILURE = re.compile(
    r"malloc|bad_alloc|memory|allocate|can't start new thread", re.IGNORECASE
)

# How Metal reports that the system ended a command buffer which took too long.
GPU_WATCHDOG = re.compile(
    r"Impacting ?Interactivity|GPU Timeout|GPU Hang|CallbackError(Timeout|Hang)|\bHang\b",
    re.IGNORECASE,
)


class LastExit(msgspec.Struct, frozen=True, kw_only=True):
    """The exit of one worker. `signal` or `code` is set; `phase` is what it was doing."""

    reason: str
    signal: str | None
    code: int | None
    phase: WorkerPhase
    uptime_s: float


def describe_exit(
    status: int,
    phase: WorkerPhase,
    uptime_s: float,
    *,
    fatal_message: str | None,
    stall: str | None,
    last_words: str = "",
) -> LastExit:
    """Describe an exit by its `status`, which is negative for a signal.

    `fatal_message` is the worker's own reason, `stall` the service's reason to terminate it,
    `last_words` the end of its standard error, which is the reason if there is no other.
    """
    name = signal_name(-status) if status < 0 else None
    by_status = f"signal {name}" if name else f"exit code {status}"
    if last_words:
        by_status += f"; its standard error ended with: {end_of(last_words, LAST_WORDS_CHARS)}"
    return LastExit(
        reason=stall or fatal_message or by_status,
        signal=name,
        code=status if status >= 0 else None,
        phase=phase,
        uptime_s=round(uptime_s, 3),
    )


def end_of(text: str, limit: int) -> str:
    """The last `limit` characters on one line, without secrets, control characters escaped."""
    shown = excerpt(conceal_secrets(text), len(ascii(text)))
    return shown if len(shown) <= limit else "…" + shown[1 - limit :]


def log_last_words(last_words: str, reason: str) -> None:
    """Log the end of a worker's standard error, if the reason does not have all of it."""
    shown = end_of(last_words, LOGGED_LAST_WORDS_CHARS)
    if shown not in reason:
        logger.error("the worker's standard error ended with: %s", shown)


def abort_message(last_words: str) -> str | None:
    """What an aborted process wrote of the reason; None if it wrote nothing of it."""
    return " ".join(ABORT_MESSAGE.findall(last_words)) or None


def signal_name(number: int) -> str:
    """SIGKILL for 9; the number itself for a signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def looks_like_out_of_memory(status: int, fatal_message: str | None, stall: str | None) -> bool:
    """Whether a worker probably exited because it was out of memory.

    A system that runs out of memory kills a process with SIGKILL.
    """
    if fatal_message is not None:
        return ALLOCATION_FAILURE.search(fatal_message) is not None
    return status == -signal.SIGKILL and stall is None


def shows_slow_calls(phase: WorkerPhase, fatal_message: str | None, stall: str | None) -> bool:
    """Whether a busy worker was ended because a device call took too long."""
    if phase != "busy":
        return False
    return stall is not None or GPU_WATCHDOG.search(fatal_message or "") is not None
