"""The processes of the ranks beside rank 0: what they are given, and their end."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from service.ranks.addresses import RankAddresses
from service.ranks.followers import Followers
from service.ranks.layout import local_layout
from tests.waiting import HANG_S, wait_for

# It writes what it was given to a file, and ends with its standard input.
TELLING_RANK = """
import json, os, sys
line = sys.stdin.readline()
given = json.loads(line)
path = sys.argv[1] + str(given[0])
open(path + '.part', 'w').write(json.dumps([given, sys.argv, dict(os.environ)]))
os.rename(path + '.part', path)
sys.stdin.read()
"""
# It never ends by itself.
DEAF_RANK = "import time\nwhile True: time.sleep(60)"


class NoCopy:
    """Closes a process's standard error instead of copying it."""

    def __init__(self, descriptor: int) -> None:
        os.close(descriptor)

    def finish(self) -> str:
        return ""


def start(addresses: RankAddresses, program: str, *words: str) -> tuple[Followers, threading.Event]:
    """The ranks of a program, and whether one of them has ended."""
    ended = threading.Event()
    command = [sys.executable, "-c", program, *words]
    return Followers(addresses, os.environ, ended.set, NoCopy, command), ended


def test_each_rank_gets_its_number_and_a_secret_that_is_nowhere_else(tmp_path: Path) -> None:
    addresses = RankAddresses(local_layout(3))
    followers, ended = start(addresses, TELLING_RANK, str(tmp_path / "rank"))
    try:
        told: list[Any] = []
        for rank in (1, 2):
            path = tmp_path / f"rank{rank}"
            wait_for(path.exists)
            told.append(json.loads(path.read_text()))
    finally:
        followers.finish()
        addresses.close()
    assert [given[0] for given, _, _ in told] == [1, 2]
    [secret] = {given[1] for given, _, _ in told}
    assert len(secret) > 40
    assert all(secret not in json.dumps(rest) for _, *rest in told)
    assert ended.wait(HANG_S)


def test_a_rank_that_does_not_end_is_killed() -> None:
    addresses = RankAddresses(local_layout(2))
    followers, ended = start(addresses, DEAF_RANK)
    followers.finish()
    addresses.close()
    assert ended.wait(HANG_S)


def test_each_start_has_a_secret_and_an_address_of_its_own() -> None:
    first, second = RankAddresses(local_layout(2)), RankAddresses(local_layout(2))
    try:
        groups = [addresses.group_for(1) for addresses in (first, second)]
        assert groups[0].secret != groups[1].secret
        assert groups[0].plan_address != groups[1].plan_address
        assert groups[0].listener == -1
    finally:
        first.close()
        second.close()
