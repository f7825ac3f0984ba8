"""The processes of all ranks beside rank 0, from their start to their exit."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import msgspec

from service.ranks.addresses import RankAddresses
from service.ranks.attendance import RankLoss
from service.ranks.follower import END_TIMEOUT_S, CopyErrors, Follower, RankProgram
from service.ranks.ssh import explain_exit, shell_line, ssh_command

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
            for rank in range(1, addresses.layout.size):
                program = program_of(rank, addresses, environ, command)
                self._ranks.append(Follower(program, environ, on_exit, copy_errors))
        except OSError:
            self.kill()
            self.finish()
            raise

    @property
    def pids(self) -> list[int]:
        """Their process ids, in the order of the ranks; of one on another host that of ssh."""
        return [rank.pid for rank in self._ranks]

    def kill(self) -> None:
        """Send SIGKILL to all."""
        for rank in self._ranks:
            rank.kill()

    def finish(self) -> str | None:
        """Wait for the exit of all, after that of rank 0; how the first has failed, if one has.

        Those that do not end are killed.
        """
        deadline = time.monotonic() + END_TIMEOUT_S
        found = [rank.finish(max(0.0, deadline - time.monotonic())) for rank in self._ranks]
        return next(filter(None, found), None)

    @property
    def loss(self) -> RankLoss | None:
        """The first rank that has failed by itself, once all have exited."""
        causes = enumerate((rank.loss_cause for rank in self._ranks), 1)
        return next((RankLoss(rank, cause) for rank, cause in causes if cause), None)


def program_of(
    rank: int, addresses: RankAddresses, environ: Mapping[str, str], command: Sequence[str]
) -> RankProgram:
    """What starts a rank: `command` on this machine, ssh elsewhere."""
    layout, group = addresses.layout, addresses.group_for(rank)
    place, line = layout.places[rank], msgspec.json.encode(group) + b"\n"
    name = group.name_of(rank)
    if place.ssh is None:
        return RankProgram(name, command, line)
    explain = partial(explain_exit, layout=layout, place=place)
    return RankProgram(name, ssh_command(place), shell_line(layout, environ) + line, explain)
