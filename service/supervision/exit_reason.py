"""Describes why a worker exited."""

from __future__ import annotations

import re
import signal

import msgspec

from service.schema.health import WorkerPhase

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
) -> LastExit:
    """Describe an exit by its `status`, which is negative for a signal.

    `fatal_message` is the worker's own reason, `stall` the service's reason to terminate it.
    """
    name = signal_name(-status) if status < 0 else None
    by_status = f"signal {name}" if name else f"exit code {status}"
    return LastExit(
        reason=stall or fatal_message or by_status,
        signal=name,
        code=status if status >= 0 else None,
        phase=phase,
        uptime_s=round(uptime_s, 3),
    )


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
