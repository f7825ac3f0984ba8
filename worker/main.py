"""The worker process from its first message to its exit code."""

from __future__ import annotations

import gc
import logging
import queue
import signal
import threading
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from protocol.channel import Channel, Closed, worker_end
from protocol.messages import (
    Configure,
    Fatal,
    Models,
    Ready,
    Shutdown,
    ToService,
    ToWorker,
)
from worker.adapters import build_registry
from worker.cache_files import CacheFiles
from worker.desk import Desk
from worker.device import describe_device, prepare_device
from worker.grammars.desk import GrammarDesk
from worker.intake import Inbox, Intake
from worker.loop import Loop
from worker.memory import Measure, make_budget, measure, set_limits
from worker.pool import LoadError, Pool

logger = logging.getLogger(__name__)

LAST_WORDS_TIMEOUT_S = 1.0
LAST_FILES_TIMEOUT_S = 3.0
EXIT_OK = 0
EXIT_DEVICE_FAILED = 70
EXIT_LOAD_FAILED = 78


def run(connection: Connection) -> int:
    """Serve one service over `connection`; the process's exit code."""
    # A terminal's Ctrl-C reaches the whole group; the service decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = worker_end(connection)
    try:
        return serve(channel)
    except Closed:
        return EXIT_OK
    except LoadError as error:
        channel.send(Fatal(str(error)))
        return EXIT_LOAD_FAILED
    except Exception as error:
        # Whatever it was, nothing in this process can be trusted now.
        logger.exception("the device failed")
        channel.send(Fatal(f"the device failed: {error!r}"))
        return EXIT_DEVICE_FAILED
    finally:
        channel.flush(LAST_WORDS_TIMEOUT_S)


def serve(channel: Channel[ToWorker, ToService]) -> int:
    """Load what the first message asks for, say `Ready`, and run the loop."""
    configure = channel.recv()
    if not isinstance(configure, Configure):
        raise Closed("the first message was no Configure")
    prepare_device()
    set_limits(
        configure.memory_limit_bytes, configure.cache_limit_bytes, configure.wired_limit_bytes
    )
    device = describe_device()
    budget = make_budget(configure.memory_limit_bytes, configure.prefill_reserve_bytes, device)
    files = open_files(configure)
    # A full collection would look through all that was imported, 70 ms in the midst of streams.
    gc.freeze()
    pool = Pool(configure, build_registry(), channel.send, budget, files=files)
    pool.load_all()
    measure_memory = partial(measure, budget.limit)
    inbox: Inbox = queue.SimpleQueue()
    signal.signal(signal.SIGTERM, lambda *_: inbox.put(Shutdown()))
    channel.send(Models(pool.states()))
    channel.send(Ready([model.info for model in pool], device, measure_memory()))
    run_loop(channel, inbox, configure, pool, measure_memory, files)
    if files is not None:
        files.close(LAST_FILES_TIMEOUT_S)
    return EXIT_OK


def open_files(configure: Configure) -> CacheFiles | None:
    """The prompt cache's files, where they are wanted."""
    if not configure.prompt_cache_dir:
        return None
    folder = Path(configure.prompt_cache_dir).expanduser()
    try:
        return CacheFiles(folder, configure.prompt_cache_dir_bytes)
    except OSError as error:
        raise LoadError(f"prompt_cache_dir {folder} cannot be used: {error}") from error


def run_loop(
    channel: Channel[ToWorker, ToService],
    inbox: Inbox,
    configure: Configure,
    pool: Pool,
    measure: Measure,
    files: CacheFiles | None,
) -> None:
    """Serve what the pool holds until told to stop."""
    grammars = GrammarDesk(inbox)
    desk = Desk(pool.sources, pool.draughtsman, grammars, files)
    for model in pool:
        desk.put_down(model.blueprint)
    loop = Loop(
        pool,
        desk,
        inbox,
        channel.send,
        measure,
        configure.max_running,
        memory_wait_s=configure.memory_wait_s,
    )
    finished = threading.Event()
    Intake(channel, desk, grammars, inbox, finished).start()
    try:
        loop.run()
    finally:
        finished.set()
