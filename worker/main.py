"""The worker process from its first message to its exit code."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import queue
import signal
import threading
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import msgspec

from protocol.channel import Channel, Closed
from protocol.messages import (
    Configure,
    Fatal,
    ModelsChanged,
    RanksMet,
    Ready,
    Shutdown,
    ToService,
    ToWorker,
)
from protocol.stats import Device
from worker.cache.cache_folder import FolderRefused
from worker.cache.disk_store import DiskStore
from worker.intake.encoded_submit import make_decoder
from worker.intake.preprocessor import Preprocessor
from worker.intake.receiver import Inbox, Receiver
from worker.memory.budget import Budget, make_budget, measure, set_limits
from worker.memory.device import describe_device, prepare_device
from worker.memory.preparation import PreparationMemory
from worker.memory.wiring import apply_wired_limit, check_wired_limit
from worker.models.families import build_registry
from worker.models.model_config import LoadError, ModelConfigLoader
from worker.models.pool import ModelPool
from worker.models.weight_loader import ONE_PROCESS, AnyLoadedModel, LoadedModel
from worker.ranks.joining.listening import MeetingFailed
from worker.ranks.leader import Leader
from worker.ranks.recorder import RankLost
from worker.scheduler.core import EngineCore
from worker.scheduler.steps.device_clock import DeviceClock

logger = logging.getLogger(__name__)

FLUSH_TIMEOUT_S = 1.0
DISK_STORE_CLOSE_TIMEOUT_S = 3.0
EXIT_OK = 0
EXIT_DEVICE_FAILED = 70
EXIT_THREAD_FAILED = 71
EXIT_LOAD_FAILED = 78


def run(connection: Connection) -> int:
    """Serve one service over `connection`; returns the process's exit code."""
    # A terminal sends Ctrl-C to the whole group; the service decides when the worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel: Channel[ToWorker, ToService] = Channel(connection, make_decoder())
    threading.excepthook = partial(exit_after_fault, channel)
    try:
        return serve(channel)
    except Closed:
        return EXIT_OK
    except LoadError as error:
        channel.send(Fatal(str(error)))
        return EXIT_LOAD_FAILED
    except RankLost as error:
        silent = isinstance(error.__cause__, TimeoutError)
        channel.send(lost_rank(error.rank, error.reason, silent))
        return EXIT_DEVICE_FAILED
    except Exception as error:
        # After such an error the state of this process is unknown.
        logger.exception("the device failed")
        channel.send(Fatal(f"the device failed: {error!r}"))
        return EXIT_DEVICE_FAILED
    finally:
        channel.flush(FLUSH_TIMEOUT_S)


def exit_after_fault(
    channel: Channel[ToWorker, ToService], fault: threading.ExceptHookArgs
) -> NoReturn:
    """End the process because one of its threads has failed: it would not answer any more."""
    name = "a thread" if fault.thread is None else f"the thread {fault.thread.name}"
    logger.error("%s failed", name, exc_info=fault.exc_value)
    channel.send(Fatal(f"{name} failed: {fault.exc_value!r}"))
    channel.flush(FLUSH_TIMEOUT_S)
    os._exit(EXIT_THREAD_FAILED)


def serve(channel: Channel[ToWorker, ToService]) -> int:
    """Load the models that the first message names, send `Ready`, and run the engine core."""
    configure = share_memory(receive_configure(channel))
    prepare_device()
    device = describe_device()
    shares = 1 if configure.ranks is None else configure.ranks.size
    budget = limit_memory(configure, device)
    configure = msgspec.structs.replace(configure, prefill_reserve_bytes=budget.prefill)
    disk_store = open_disk_store(configure)
    # Without this a full collection traverses all imported objects: 70 ms in which streams wait.
    gc.freeze()
    inbox: Inbox = queue.SimpleQueue()
    config_loader = ModelConfigLoader(build_registry(), configure.context_limit_tokens, shares)
    preparation_memory = PreparationMemory()
    preprocessor = make_preprocessor(
        configure, config_loader, inbox, disk_store, preparation_memory, channel
    )
    device_clock = DeviceClock()
    finished = threading.Event()
    # Before the ranks meet and the loads: it notices that the service ends during them.
    Receiver(channel, preprocessor, inbox, finished, device_clock.read).start()
    try:
        leader, budget = meet_ranks(configure, channel, budget)
        pool = ModelPool(
            configure,
            config_loader,
            budget,
            disk_store=disk_store,
            preparation_memory=preparation_memory,
            on_loading=channel.send,
            on_loaded=partial(register_model, preprocessor),
            on_unloaded=partial(forget_model, preprocessor, leader),
            parts=ONE_PROCESS if leader is None else leader.parts,
        )
        # What the files say of the models is known before they are loaded.
        channel.send(ModelsChanged(pool.states()))
        pool.load_all()
        weight_bytes = sum(pool.account.weight_bytes.values())
        wiring = apply_wired_limit(configure.wired_limit_bytes, weight_bytes)
        measure_memory = partial(measure, budget.limit)
        signal.signal(signal.SIGTERM, lambda *_: inbox.put(Shutdown()))
        send_ready(channel, pool, Ready(device, measure_memory(), wiring))
        EngineCore(
            pool,
            preprocessor,
            inbox,
            send=channel.send,
            measure_memory=measure_memory,
            max_running=configure.max_running,
            memory_wait_s=configure.memory_wait_s,
            stream_interval_s=configure.stream_interval_s,
            device_clock=device_clock,
        ).run()
    finally:
        finished.set()
        preprocessor.shut_down()
    close_disk_store(disk_store)
    if leader is not None:
        leader.close()
    return EXIT_OK


def share_memory(configure: Configure) -> Configure:
    """The limits of this process, which is one of perhaps several ranks on its host."""
    if configure.ranks is None:
        return configure
    shares = configure.ranks.shares
    return msgspec.structs.replace(
        configure,
        memory_limit_bytes=configure.memory_limit_bytes // shares,
        cache_limit_bytes=configure.cache_limit_bytes // shares,
        prompt_cache_bytes=configure.prompt_cache_bytes // shares,
    )


def meet_ranks(
    configure: Configure, channel: Channel[ToWorker, ToService], budget: Budget
) -> tuple[Leader | None, Budget]:
    """Accept the other ranks, which then follow this one; None if there are none.

    `budget` is this process's; unless it was set, the smallest one of all ranks is returned.

    Raises:
        LoadError: they cannot work together, or a setting cannot be used with ranks.
    """
    if configure.ranks is None:
        return None, budget
    if configure.prompt_cache_dir:
        raise LoadError("prompt_cache_dir cannot be used with ranks")
    try:
        leader = Leader(
            configure.ranks,
            configure.rank_silence_s,
            on_met=lambda ranks, complete: channel.send(RanksMet(ranks, complete)),
            on_lost=partial(exit_without_rank, channel),
            budget_bytes=budget.limit,
        )
    except MeetingFailed as error:
        raise LoadError(str(error)) from error
    leader.prepare(configure)
    if not configure.memory_limit_bytes:
        budget = dataclasses.replace(budget, limit=leader.budget_bytes)
    return leader, budget


def lost_rank(rank: int, reason: str, silent: bool) -> Fatal:
    """The last message where another rank is lost: no step can be computed without it."""
    logger.error("rank %d is lost: %s", rank, reason)
    return Fatal(f"rank {rank} is lost: {reason}", rank, silent)


def exit_without_rank(
    channel: Channel[ToWorker, ToService], rank: int, reason: str, silent: bool
) -> NoReturn:
    """End the process because another rank is lost."""
    channel.send(lost_rank(rank, reason, silent))
    channel.flush(FLUSH_TIMEOUT_S)
    os._exit(EXIT_DEVICE_FAILED)


def forget_model(preprocessor: Preprocessor, leader: Leader | None, id: str) -> None:
    """Close what prepares a model's prompts, and let the other ranks free its weights."""
    preprocessor.close(id)
    if leader is not None:
        leader.send_freed()


def limit_memory(configure: Configure, device: Device) -> Budget:
    """The budget of this process; MLX gets its limits.

    Raises:
        LoadError: the wired limit is larger than Metal recommends.
    """
    shares = 1 if configure.ranks is None else configure.ranks.shares
    budget = make_budget(
        configure.memory_limit_bytes, configure.prefill_reserve_bytes, device, shares
    )
    set_limits(configure.memory_limit_bytes, configure.cache_limit_bytes, budget)
    try:
        check_wired_limit(configure.wired_limit_bytes)
    except ValueError as error:
        raise LoadError(str(error)) from error
    return budget


def make_preprocessor(
    configure: Configure,
    config_loader: ModelConfigLoader,
    inbox: Inbox,
    disk_store: DiskStore | None,
    memory: PreparationMemory,
    channel: Channel[ToWorker, ToService],
) -> Preprocessor:
    """The preprocessor of the configured models; it sends what needs no device by itself."""
    return Preprocessor(
        configure.models,
        config_loader,
        inbox,
        disk_store,
        send=channel.send,
        memory=memory,
        memory_wait_s=configure.memory_wait_s,
    )


def close_disk_store(disk_store: DiskStore | None) -> None:
    """Write what is queued, if a folder is configured."""
    if disk_store is not None:
        disk_store.close(DISK_STORE_CLOSE_TIMEOUT_S)


def send_ready(channel: Channel[ToWorker, ToService], pool: ModelPool, ready: Ready) -> None:
    """Send the models as they are after the loads, then `Ready`."""
    channel.send(ModelsChanged(pool.states()))
    channel.send(ready)


def receive_configure(channel: Channel[ToWorker, ToService]) -> Configure:
    """The first message.

    Raises:
        Closed: it is another one, or there is none.
    """
    configure = channel.recv()
    if not isinstance(configure, Configure):
        raise Closed("the first message is not a Configure")
    return configure


def open_disk_store(configure: Configure) -> DiskStore | None:
    """The prompt cache on disk; None if no folder is configured.

    Raises:
        LoadError: the folder cannot be used.
    """
    if not configure.prompt_cache_dir:
        return None
    folder = Path(configure.prompt_cache_dir).expanduser()
    try:
        return DiskStore(
            folder,
            configure.prompt_cache_dir_bytes,
            configure.prompt_cache_dir_reserve_bytes,
        )
    except (OSError, FolderRefused) as error:
        raise LoadError(f"prompt_cache_dir {folder} cannot be used: {error}") from error


def register_model(preprocessor: Preprocessor, model: AnyLoadedModel) -> None:
    """Let the model's prompts be prepared, with cache breakpoints if its caches need them."""
    wants_breakpoints = isinstance(model, LoadedModel) and not model.engine.is_trimmable
    preprocessor.register(model.config, wants_breakpoints=wants_breakpoints)
