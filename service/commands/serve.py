"""`mlxd serve`: from the settings to a running service."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import platform
import resource
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from starlette.types import ASGIApp

from protocol.messages import Configure
from service.app import ServiceParts, build_app
from service.commands.startup_screen import StartupScreen
from service.config.model_names import ModelNames
from service.config.model_settings import to_sources
from service.config.scalars import SettingsError
from service.config.settings import Settings
from service.config.sources import load_settings
from service.host.log_setup import LogFile, configure_logging
from service.host.sleep_prevention import SleepPrevention, caffeinate
from service.host.standard_streams import STANDARD_OUTPUT, open_standard_stream
from service.http.listener import ConnectionListener, bind, url_of
from service.http.tls import make_tls
from service.inflight.registry import RequestRegistry
from service.schema.capabilities import KV_REASON
from service.security.exposure import find_exposure
from service.security.keyring import KeyRing, open_keyring
from service.server import EXIT_FAILED, Server
from service.supervision.preloads import find_preloads
from service.supervision.process import WORKER_COMMAND, worker_environ
from service.supervision.restart_policy import RestartLimits
from service.supervision.supervisor import Supervisor, Timeouts
from service.telemetry.exporters import read_exporters
from service.telemetry.setup import Observability

OPEN_FILES = 8192
# For the worker's pipe, libraries, logs: what is not a connection.
OTHER_FILES = 64

logger = logging.getLogger(__name__)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until a signal; the exit code.

    Raises:
        SettingsError: a setting cannot be used.
    """
    settings = load_settings(argv, environ)
    keys, tls = open_keyring(settings), make_tls(settings)
    try:
        file = log_file(settings)
        flush_logs = configure_logging(settings.log_level, settings.log_format, file=file)
    except OSError as error:
        complain(f"cannot log to {settings.log_file}: {error.strerror}")
        return EXIT_FAILED
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        complain(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
        return EXIT_FAILED
    refuse_open_network(settings, keys, listener)
    allow_open_files()
    if settings.kv_quantisation != "off":
        logger.warning("kv_quantisation: %s", KV_REASON)
    # A full collection would look through all that was imported, 35 ms in which no stream moves.
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(serve(settings, listener, environ, keys, tls))
    finally:
        flush_logs()


def log_file(settings: Settings) -> LogFile | None:
    """The file that is logged to, where one is set."""
    if not settings.log_file:
        return None
    return LogFile(Path(settings.log_file), settings.log_file_bytes, settings.log_files)


def refuse_open_network(settings: Settings, keys: KeyRing, listener: socket.socket) -> None:
    """Refuse to serve clients on other machines without an API key, unless the settings allow it.

    Raises:
        SettingsError: other machines can reach the service, and no API key is required.
    """
    reason = find_exposure(settings, keys, listener.getsockname()[0])
    if reason is not None:
        listener.close()
        raise SettingsError(f"host: {reason}")


async def serve(
    settings: Settings,
    listener: socket.socket,
    environ: Mapping[str, str],
    keys: KeyRing,
    tls: ssl.SSLContext | None = None,
    *,
    worker_command: Sequence[str] = WORKER_COMMAND,
    restart_limits: RestartLimits | None = None,
) -> int:
    """Wire the parts together and run them; the process's exit code."""
    screen = StartupScreen(Console(file=open_standard_stream(STANDARD_OUTPUT)))
    observability = Observability(
        read_exporters(environ), version("mlxd"), record_content=settings.record_content == "on"
    )
    preloads = find_preloads(settings.blas, settings.allocator)
    supervisor = Supervisor(
        to_configure(settings),
        worker_command,
        worker_environ(environ, preloads),
        timeouts=Timeouts(load_timeout_s=settings.load_timeout_s, stall_s=settings.stall_s),
        on_loading=screen.show_loading,
        on_step=observability.step_stats.add_step,
        restart_limits=restart_limits,
    )
    registry = make_registry(settings, supervisor)
    supervisor.set_observer(registry)
    observability.watch(supervisor)
    parts = ServiceParts(
        settings=settings,
        model_names=ModelNames(settings.models),
        supervisor=supervisor,
        registry=registry,
        observability=observability,
        version=version("mlxd"),
    )
    api = build_app(parts, keys=keys, address=listener.getsockname()[0])

    def show_ready() -> None:
        if (ready := supervisor.ready) is not None:
            models = supervisor.model_states.infos
            screen.show_ready(
                ready, models, url_of(listener, tls=tls is not None), preloads, keyed=keys.required
            )

    server = Server(
        make_connections(settings, observability.telemetry.trace(api), listener, tls),
        supervisor,
        registry,
        drain_s=settings.drain_s,
        on_ready=show_ready,
    )
    async with kept_awake(settings, registry):
        status = await server.run()
    observability.telemetry.shut_down()
    screen.close()
    if supervisor.failure is not None:
        complain(supervisor.failure)
    return status


@contextlib.asynccontextmanager
async def kept_awake(settings: Settings, registry: RequestRegistry) -> AsyncIterator[None]:
    """While requests run, a Mac does not go to sleep."""
    if platform.system() != "Darwin" or settings.keep_awake == "off":
        yield
        return
    watching = asyncio.create_task(SleepPrevention(registry, caffeinate(os.getpid())).run())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


def make_registry(settings: Settings, supervisor: Supervisor) -> RequestRegistry:
    """What is in flight, within the bounds that are set."""
    return RequestRegistry(
        supervisor,
        max_in_flight=settings.max_running + settings.max_waiting,
        load_wait_s=settings.load_wait_s,
        queue_timeout_s=settings.queue_timeout_s,
    )


def make_connections(
    settings: Settings, app: ASGIApp, listener: socket.socket, tls: ssl.SSLContext | None
) -> ConnectionListener:
    """The connections of `listener`, within the bounds that are set."""
    return ConnectionListener(
        app,
        listener,
        max_connections=connection_limit(settings.max_connections),
        max_header_bytes=settings.max_header_bytes,
        write_stall_s=settings.write_stall_s,
        tls=tls,
    )


def complain(reason: str) -> None:
    """Say on one line why the command ends."""
    sys.stderr.write(f"mlxd: {reason}\n")


def to_configure(settings: Settings) -> Configure:
    """The settings that are the worker's."""
    sources, begin_with = to_sources(settings.models, settings.idle_unload_s)
    return Configure(
        models=sources,
        preload=begin_with,
        memory_wait_s=settings.memory_wait_s,
        prefill_reserve_bytes=settings.prefill_reserve_bytes,
        wired_limit_bytes=settings.wired_limit_bytes,
        max_running=settings.max_running,
        prefill_step_tokens=settings.prefill_step_tokens,
        context_limit_tokens=settings.context_limit_tokens,
        memory_limit_bytes=settings.memory_limit_bytes,
        cache_limit_bytes=settings.cache_limit_bytes,
        prompt_cache_bytes=settings.prompt_cache_bytes,
        prompt_cache_dir=settings.prompt_cache_dir,
        prompt_cache_dir_bytes=settings.prompt_cache_dir_bytes,
    )


def allow_open_files() -> None:
    """Raise the soft limit on open files, which is 256 on macOS, as far as the hard one lets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connection_limit(wanted: int) -> int:
    """`wanted`, or as many connections as the limit on open files leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - OTHER_FILES))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it exists, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
