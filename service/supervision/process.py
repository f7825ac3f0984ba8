"""One worker process: starts it, exchanges messages with it, and reaps it; and its state.

The worker is a separate program (`python -m worker`): it imports nothing of this process,
and its environment is set before it starts. The processes share only a pipe; end of file
on the pipe means that the other process has exited. Its standard error is a second pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path

import msgspec

from protocol.channel import Channel, Closed, service_end
from protocol.embedding import Embed
from protocol.messages import Cancel, Configure, Submit, ToService, ToWorker
from protocol.tokenization import Tokenize
from service.config.api_keys import API_KEYS_VARIABLE
from service.config.secrets import has_secret, names_secret
from service.ranks.addresses import RankAddresses
from service.ranks.attendance import RankLoss
from service.ranks.follower import OWN_GROUP
from service.ranks.followers import Followers
from service.ranks.layout import ONE_PROCESS, RankLayout
from service.schema.health import WorkerPhase
from service.supervision.preloads import Preloads
from service.supervision.standard_error import StandardErrorCopy
from service.supervision.worker_clocks import Timeouts, WorkerClocks

# The file descriptor of the worker's end of the pipe is appended as the last argument.
# -P: do not import a folder named `worker` from the current directory.
WORKER_COMMAND = (sys.executable, "-P", "-m", "worker")
CODE_FOLDER = str(Path(__file__).parents[2])
REAP_TIMEOUT_S = 2.0
NO_STORED_TOKEN = "HF_HUB_DISABLE_IMPLICIT_TOKEN"
# Variables without secrets whose names look like it.
HARMLESS = (NO_STORED_TOKEN, "TOKENIZERS_PARALLELISM")


class WorkerProcess:
    """A running worker. All callbacks are called on the event loop that creates it.

    `on_message` is called with each message, `on_closed` once no more messages can arrive, and
    `on_exit` after that with the exit status, which is negative for a signal.

    Raises:
        OSError: the worker cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        on_message: Callable[[ToService], None],
        on_exit: Callable[[int], None],
        on_closed: Callable[[], None] | None = None,
        ranks: RankLayout = ONE_PROCESS,
    ) -> None:
        service_connection, worker_connection = multiprocessing.Pipe()
        self._addresses = RankAddresses(ranks) if ranks.size > 1 else None
        passed = [] if self._addresses is None else [self._addresses.listener]
        # Close the worker's end here; otherwise the pipe would never reach end of file.
        with worker_connection:
            self._process = subprocess.Popen(
                [*command, str(worker_connection.fileno())],
                env=dict(environ),
                pass_fds=[worker_connection.fileno(), *passed],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=OWN_GROUP,
            )
        assert self._process.stderr is not None
        self._standard_error = StandardErrorCopy(os.dup(self._process.stderr.fileno()))
        self._process.stderr.close()
        # The end of its standard error, at most 4 KB; complete when `on_exit` is called.
        self.last_words = ""
        self._channel: Channel[ToService, ToWorker] = service_end(service_connection)
        self._followers = self._start_followers(environ)
        # How another rank has failed, if one has; set when `on_exit` is called.
        self.lost_rank: str | None = None
        self.rank_loss: RankLoss | None = None
        # Why this process has killed rank 0, if it has.
        self.killed_because: str | None = None
        self._on_message = on_message
        self._on_exit = on_exit
        self._on_closed = on_closed
        self._is_closed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel.fileno(), self._read)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def rank_pids(self) -> list[int]:
        """The process ids of all ranks."""
        return [self.pid, *(self._followers.pids if self._followers is not None else ())]

    def configure(self, configure: Configure) -> None:
        """Send the first message, with what rank 0 needs to know of the others."""
        group = None if self._addresses is None else self._addresses.group_for(0)
        self.send(msgspec.structs.replace(configure, ranks=group))

    def _start_followers(self, environ: Mapping[str, str]) -> Followers | None:
        """Start the other ranks, if there are any."""
        if self._addresses is None:
            return None
        # Rank 0 has its own copy.
        self._addresses.close()
        try:
            return Followers(self._addresses, environ, self._end_without_rank, StandardErrorCopy)
        except OSError:
            self._process.kill()
            self._process.wait()
            raise

    def _end_without_rank(self) -> None:
        """A rank has ended, so rank 0 has to: it does so by itself unless it is stopped."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(REAP_TIMEOUT_S)
            return
        self.killed_because = "rank 0 did not end with another rank"
        self._process.kill()

    def send(self, message: ToWorker) -> None:
        """Queue a message; it is dropped if the worker has exited.

        A request that is cancelled before the pipe had room for it is not sent at all: beside a
        worker that reads nothing, the prompts of clients that have left would fill the memory.
        """
        if isinstance(message, Cancel):
            self._channel.withdraw(partial(asks_only_for, set(message.ids)))
        self._channel.send(message)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL, to all ranks."""
        self._process.kill()
        if self._followers is not None:
            self._followers.kill()

    def _read(self) -> None:
        try:
            for message in self._channel.take():
                self._on_message(message)
        except Closed:
            self._is_closed = True
            self._loop.remove_reader(self._channel.fileno())
            if self._on_closed is not None:
                self._on_closed()
            threading.Thread(target=self._reap, name="worker-reaper", daemon=True).start()

    def notice_exit(self) -> None:
        """Read to the end what a worker that has exited has sent, if the event loop does not.

        A worker that is killed before it has read all leaves an error on the pipe. libuv (of
        uvloop 0.23) then calls the reader once and watches the pipe no more, so that its end is
        not seen behind a message. It can go when uvloop calls again.
        """
        if self._is_closed or self._process.poll() is None:
            return
        while self._is_readable():
            self._read()

    def _is_readable(self) -> bool:
        if self._is_closed:
            return False
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _reap(self) -> None:
        """Wait for the exit and report its status; kill a worker that does not exit in time."""
        try:
            status = self._process.wait(REAP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self.last_words = self._standard_error.finish()
        self._channel.close()
        if self._followers is not None:
            self.lost_rank = self._followers.finish()
            self.rank_loss = self._followers.loss
        # The event loop may be closed already.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._on_exit, status)


def asks_only_for(ids: AbstractSet[int], message: ToWorker) -> bool:
    """Whether this is a request all of whose sequences are among `ids`."""
    match message:
        case Submit(id=id, siblings=siblings):
            return id in ids and all(sibling.id in ids for sibling in siblings)
        case Embed(id=id) | Tokenize(id=id):
            return id in ids
        case _:
            return False


def worker_environ(
    environ: Mapping[str, str], preloads: Preloads, *, runs_remote_code: bool = False
) -> dict[str, str]:
    """The environment of the worker: `environ` with the preloaded libraries.

    A worker that runs code of a model's folder gets no variable that may have a secret.
    """
    if runs_remote_code:
        environ = {name: value for name, value in environ.items() if not may_tell(name, value)}
        # Nor does it send the token that `hf auth login` has stored.
        environ[NO_STORED_TOKEN] = "1"
    # The worker is imported from the folder that contains this service.
    path = os.pathsep.join(filter(None, [CODE_FOLDER, environ.get("PYTHONPATH")]))
    inherited = preloads.apply_to({**environ, "PYTHONPATH": path})
    # The worker does not need the API keys.
    inherited.pop(API_KEYS_VARIABLE, None)
    return inherited


def may_tell(name: str, value: str) -> bool:
    """Whether a variable may have a token, a key or a password."""
    if name in HARMLESS:
        return False
    return names_secret(name) or name.endswith("_HEADERS") or has_secret(value)


class WorkerRun:
    """The state of one worker, from its start to its exit."""

    def __init__(
        self, worker: WorkerProcess, exited: asyncio.Future[int], timeouts: Timeouts
    ) -> None:
        self.worker = worker
        self.exited = exited
        self.started_at = time.monotonic()
        self.ready_at: float | None = None
        # The start of the time for which it has been healthy at the current `max_running`.
        self.healthy_since = 0.0
        self.ready_s = 0.0
        self.clocks = WorkerClocks(timeouts, self.started_at)
        self.phase: WorkerPhase = "loading"
        self.fatal_message: str | None = None
        # Another rank that is lost, by rank 0's last message.
        self.lost_rank: int | None = None
        self.lost_silently = False
        self.stall: str | None = None
        self.lost = False
        self.cause_found = False

    @property
    def last_message(self) -> str | None:
        """Why it has ended, by its own last message or by the exit of another rank."""
        return "; ".join(filter(None, (self.worker.lost_rank, self.own_message))) or None

    @property
    def own_message(self) -> str | None:
        """Why rank 0 has ended: its last message, or why the service has killed it."""
        return self.fatal_message or self.worker.killed_because

    def rank_loss(self, status: int) -> RankLoss:
        """The rank that has ended this worker, which has exited with this status."""
        found = self.worker.rank_loss
        if found is not None and found.cause == "killed":
            return found
        if status < 0 and self.stall is None and self.worker.killed_because is None:
            return RankLoss(0, "killed")
        if found is not None:
            return found
        if self.lost_rank is not None:
            return RankLoss(self.lost_rank, "unreachable")
        hung = self.stall is not None or self.worker.killed_because is not None
        return RankLoss(0, "stalled" if hung else "failed")

    @property
    def uptime_s(self) -> float:
        """The time since its start."""
        return time.monotonic() - self.started_at
