"""How a worker ended, in words and in fields."""

from __future__ import annotations

import re
import signal
from typing import Literal

import msgspec

Phase = Literal["loading", "idle", "busy"]

# The words of MLX's and the system's allocators in a worker's last message.
MEMORY_WORDS = re.compile(r"malloc|bad_alloc|memory|allocate", re.IGNORECASE)


class LastExit(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one worker. `signal` or `code` is set; `phase` is what it was doing."""

    reason: str
    signal: str | None
    code: int | None
    phase: Phase
    uptime_s: float


def describe_exit(
    status: int, phase: Phase, uptime_s: float, *, last_words: str | None, stalled: str | None
) -> LastExit:
    """The end of a worker that exited with `status` (negative: a signal's number).

    `stalled` says why it was ended by the service.
    """
    name = signal_name(-status) if status < 0 else None
    bare = f"signal {name}" if name else f"exit code {status}"
    return LastExit(
        reason=stalled or last_words or bare,
        signal=name,
        code=status if status >= 0 else None,
        phase=phase,
        uptime_s=round(uptime_s, 3),
    )


def signal_name(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def looks_like_memory(status: int, last_words: str | None, stalled: str | None) -> bool:
    """Whether a worker ended for want of memory, as far as its end can tell.

    Systems that run out of memory end a process by SIGKILL.
    """
    if last_words is not None:
        return MEMORY_WORDS.search(last_words) is not None
    return status == -signal.SIGKILL and stalled is None
