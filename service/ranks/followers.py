"""The processes of all ranks beside rank 0, from their start to their exit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import msgspec

from service.ranks.addresses import RankAddresses
from service.ranks.follower import CopyErrors, Follower

# -P: do not import a folder named `worker` from the current directory.
RANK_COMMAND = (sys.executable, "-P", "-m", "worker.ranks")


class Followers:
    """All ranks beside rank 0. `on_exit` is called, on some thread, whenever one has ended.

    Raises:
        OSError: one cannot be started; those before it are ended.
    """

    def __init__(
        self,
        addresses: RankAddresses,
        environ: Mapping[str, str],
        on_exit: Callable[[], None],
        copy_errors: CopyErrors,
        command: Sequence[str] = RANK_COMMAND,
    ) -> None:
        self._ranks: list[Follower] = []
        try:
            for rank in range(1, addresses.size):
                line = msgspec.json.encode(addresses.group_for(rank)) + b"\n"
                self._ranks.append(Follower(rank, command, environ, line, on_exit, copy_errors))
        except OSError:
            self.kill()
            self.finish()
            raise

    @property
    def pids(self) -> list[int]:
        """Their process ids, in the order of the ranks."""
        return [rank.pid for rank in self._ranks]

    def kill(self) -> None:
        """Send SIGKILL to all."""
        for rank in self._ranks:
            rank.kill()

    def finish(self) -> str | None:
        """Wait for the exit of all, after that of rank 0; how the first has failed, if one has.

        Those that do not end are killed.
        """
        return next(filter(None, [rank.finish() for rank in self._ranks]), None)
