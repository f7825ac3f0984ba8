"""A rank beside rank 0, from its standard input to its exit code."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from typing import BinaryIO

import msgspec

from protocol.ranks import RankGroup
from worker.memory.budget import make_budget
from worker.memory.device import describe_device, prepare_device
from worker.ranks.following import Follower
from worker.ranks.joining.backends import make_group
from worker.ranks.joining.frames import BadFrame, Frames
from worker.ranks.joining.listening import MeetingFailed
from worker.ranks.joining.meeting import hold_ports, join_rank_0, make_hello
from worker.ranks.joining.versions import version_of
from worker.ranks.plan import Failed, Plan, decode_plan, encode

logger = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED = 0, 70
REASON_TIMEOUT_S = 1.0


def run(standard_input: BinaryIO) -> int:
    """Follow rank 0 until it ends. The first line says which group this is.

    Standard input stays open for as long as who started this rank lives.
    """
    # A terminal sends Ctrl-C to the whole group; the service decides when the ranks end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        group = msgspec.json.decode(standard_input.readline(), type=RankGroup)
    except msgspec.MsgspecError as error:
        sys.stderr.write(f"this is mlxd {version_of('mlxd')}, rank 0 another version: {error}\n")
        return EXIT_FAILED
    threading.Thread(
        target=exit_at_end, args=[standard_input], name="input-watch", daemon=True
    ).start()
    prepare_device()
    try:
        return follow(group)
    except MeetingFailed as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILED


def follow(group: RankGroup) -> int:
    """Join rank 0, and make the calls of its plans until it ends.

    Raises:
        MeetingFailed: rank 0 is not there, or refuses this rank.
    """
    budget = make_budget(0, 0, describe_device(), group.shares)
    ports = hold_ports(group)
    frames, welcome = join_rank_0(group, make_hello(group, ports, budget.limit))
    plans: queue.SimpleQueue[Plan] = queue.SimpleQueue()
    try:
        ring = make_group(group, welcome)
        ports.close()
        frames.start_heartbeats(welcome.silence_s)
        threading.Thread(
            target=read_plans, args=[frames, plans], name="plan-reader", daemon=True
        ).start()
        Follower(ring, plans.get, lambda answer: frames.send(encode(answer)), group.shares).run()
    except BaseException as error:
        logger.exception("rank %d failed", group.rank)
        fail(frames, f"{type(error).__name__}: {error}")
    return EXIT_OK


def exit_at_end(standard_input: BinaryIO) -> None:
    """End this process once standard input is closed, whatever the device does."""
    while standard_input.read(1):
        pass
    os._exit(EXIT_OK)


def read_plans(frames: Frames, plans: queue.SimpleQueue[Plan]) -> None:
    """Queue the plans, and end this process with rank 0, whatever the device does."""
    try:
        while True:
            plans.put(decode_plan(frames.receive()))
    except (OSError, EOFError):
        os._exit(EXIT_OK)
    except (BadFrame, msgspec.MsgspecError) as error:
        fail(frames, str(error))


def fail(frames: Frames, reason: str) -> None:
    """Tell rank 0 the reason, and end this process: its state is unknown."""
    sys.stderr.write(f"a rank ends: {reason}\n")
    try:
        frames.set_timeout(REASON_TIMEOUT_S)
        frames.send(encode(Failed(reason)))
    finally:
        os._exit(EXIT_FAILED)
