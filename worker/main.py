"""The worker process from its first message to its exit code."""

from __future__ import annotations

import logging
import queue
import signal
import threading
from functools import partial
from multiprocessing.connection import Connection

from protocol.channel import Channel, Closed, worker_end
from protocol.messages import Configure, Fatal, Ready, Shutdown, ToService, ToWorker
from worker.adapters import build_registry
from worker.device import describe_device, prepare_device
from worker.intake import Inbox, Intake
from worker.loop import Loop
from worker.memory import measure, set_limits
from worker.pool import LoadError, Pool

logger = logging.getLogger(__name__)

LAST_WORDS_TIMEOUT_S = 1.0
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
    set_limits(configure.memory_limit_bytes, configure.cache_limit_bytes)
    pool = Pool(configure, build_registry(), channel.send)
    pool.load_all()
    device = describe_device()
    measure_memory = partial(measure, configure.memory_limit_bytes or device.memory_bytes)
    channel.send(Ready([model.info for model in pool], device, measure_memory()))

    inbox: Inbox = queue.SimpleQueue()
    finished = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: inbox.put(Shutdown()))
    Intake(channel, pool, inbox, finished).start()
    try:
        Loop(pool, inbox, channel.send, measure_memory, configure.max_running).run()
    finally:
        finished.set()
    return EXIT_OK
