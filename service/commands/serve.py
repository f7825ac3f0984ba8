"""`mlxd serve`: build the service from its settings, and run it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import resource
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from starlette.types import ASGIApp

from protocol.messages import Configure
from service.app import ServiceParts, build_app, warn_without_effect
from service.commands.rank_layout import choose_layout, refuse_with_ranks
from service.commands.startup_screen import StartupScreen
from service.config.installation_key import load_installation_key
from service.config.model_names import ModelNames
from service.config.model_settings import to_sources, trusted_ids
from service.config.scalars import SettingsError
from service.config.secrets import conceal_secrets
from service.config.settings import Settings
from service.config.sources import load_settings, softened_parameters
from service.errors import StoreUnavailable, excerpt
from service.host.hub import refuse_open_hub_for
from service.host.log_setup import LogFile, configure_logging
from service.host.sleep_prevention import SleepPrevention, caffeinate
from service.host.standard_streams import STANDARD_OUTPUT, open_standard_stream
from service.inflight.registry import RequestRegistry
from service.ranks.layout import RankLayout
from service.security.clients import ClientNames, PeerNames
from service.security.exposure import find_exposure
from service.security.keyring import KeyRing, open_keyring
from service.security.peer_processes import PeerProcesses
from service.server import EXIT_FAILED, Server
from service.store.encoded_thinking import EncodedThinking
from service.store.opening import Stores, running_stores
from service.supervision.preloads import Preloads, find_preloads
from service.supervision.process import WORKER_COMMAND, worker_environ
from service.supervision.restart_policy import RestartLimits
from service.supervision.supervisor import Supervisor
from service.supervision.worker_clocks import Timeouts
from service.telemetry.exporters import read_exporters
from service.telemetry.setup import Observability
from service.transport.freed_memory import return_large_blocks
from service.transport.garbage_collection import make_full_collections_rare
from service.transport.listener import ConnectionListener, bind, url_of
from service.transport.tls import make_tls

MAX_OPEN_FILES = 8192
# Open files that are not connections: the worker's pipe, libraries, logs.
OTHER_FILES = 64
MESSAGE_CHARS = 2000
# How long a thread that works on a large body may keep the interpreter lock from the event loop.
SWITCH_INTERVAL_S = 0.001

logger = logging.getLogger(__name__)


def run(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until a signal, and return the exit code.

    Raises:
        SettingsError: a setting cannot be used.
    """
    settings = load_settings(argv, environ)
    refuse_open_hub_for(settings.models, environ)
    layout = choose_layout(settings)
    refuse_with_ranks(settings, layout)
    keys, tls = open_keyring(settings), make_tls(settings)
    try:
        file = log_file(settings)
        flush_logs = configure_logging(settings.log_level, settings.log_format, file=file)
    except OSError as error:
        print_error(f"cannot log to {settings.log_file}: {error.strerror}")
        return EXIT_FAILED
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        print_error(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
        return EXIT_FAILED
    refuse_open_network(settings, keys, listener)
    raise_open_files_limit()
    return_large_blocks()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    make_full_collections_rare()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(serve(settings, listener, environ, keys, tls, layout=layout))
    finally:
        flush_logs()


def log_file(settings: Settings) -> LogFile | None:
    """The log file of the settings; None if there is none."""
    if not settings.log_file:
        return None
    return LogFile(
        Path(settings.log_file), max_bytes=settings.log_file_bytes, backups=settings.log_files
    )


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
    layout: RankLayout | None = None,
    worker_command: Sequence[str] = WORKER_COMMAND,
    restart_limits: RestartLimits | None = None,
) -> int:
    """Open the store, serve, and return the process's exit code."""
    supervise = partial(
        make_supervisor,
        settings,
        layout or choose_layout(settings),
        worker_command,
        restart_limits=restart_limits,
    )
    try:
        async with running_stores(
            settings.response_store,
            settings.response_store_bytes,
            settings.response_store_ttl_s,
            tag=settings.replica_tag,
        ) as stores:
            return await serve_with(
                stores,
                settings,
                listener,
                environ,
                keys,
                tls,
                supervise,
            )
    except StoreUnavailable as error:
        listener.close()
        print_error(error.message)
        return EXIT_FAILED


async def serve_with(
    stores: Stores,
    settings: Settings,
    listener: socket.socket,
    environ: Mapping[str, str],
    keys: KeyRing,
    tls: ssl.SSLContext | None,
    supervise: Callable[..., Supervisor],
) -> int:
    """Build the service's components, run them, and return the process's exit code."""
    screen = StartupScreen(Console(file=open_standard_stream(STANDARD_OUTPUT)))
    observability = make_observability(settings, environ)
    preloads = find_preloads(settings.blas, settings.allocator)
    supervisor = supervise(environ, preloads, screen, observability)
    registry = make_registry(settings, supervisor)
    supervisor.set_observer(registry)
    observability.watch(supervisor, stores.index)
    peers = PeerNames(PeerProcesses(), registry.rename_client)
    parts = ServiceParts(
        settings=settings,
        model_names=ModelNames(settings.models),
        supervisor=supervisor,
        registry=registry,
        clients=ClientNames(peers),
        observability=observability,
        stores=stores,
        thinking=make_thinking(settings),
        version=version("mlxd"),
        keys_in_force=lambda: keys.in_force,
    )
    warn_without_effect(parts)
    api = build_app(parts, keys=keys, address=listener.getsockname()[0])
    server = Server(
        make_listener(settings, observability.telemetry.trace(api), listener, tls, peers),
        supervisor,
        registry,
        drain_s=settings.drain_s,
        on_ready=partial(
            show_ready,
            screen,
            supervisor,
            url=url_of(listener, tls=tls is not None),
            preloads=preloads,
            keyed=keys.required,
            settings=settings,
        ),
    )
    async with preventing_sleep(settings, registry):
        status = await server.run()
    observability.telemetry.shut_down()
    show_end(screen, supervisor.failure)
    return status


def make_observability(settings: Settings, environ: Mapping[str, str]) -> Observability:
    """Telemetry with the exporters that the environment names."""
    return Observability(
        read_exporters(environ),
        version("mlxd"),
        record_content=settings.record_content == "on",
        instance=settings.replica_tag,
    )


def show_end(screen: StartupScreen, failure: str | None) -> None:
    """Close the screen, and print why the worker was given up."""
    screen.close()
    if failure is not None:
        print_error(failure)


def show_ready(
    screen: StartupScreen,
    supervisor: Supervisor,
    *,
    url: str,
    preloads: Preloads,
    keyed: bool,
    settings: Settings,
) -> None:
    """Show the summary, if the worker is still ready."""
    if supervisor.ready is not None:
        screen.show_ready(
            supervisor.ready,
            supervisor.model_states.infos,
            url=url,
            preloads=preloads,
            keyed=keyed,
            softened=softened_parameters(settings),
            trusted=trusted_ids(settings.models),
        )


@contextlib.asynccontextmanager
async def preventing_sleep(settings: Settings, registry: RequestRegistry) -> AsyncIterator[None]:
    """On macOS, prevent sleep while requests run."""
    if platform.system() != "Darwin" or settings.keep_awake == "off":
        yield
        return
    task = asyncio.create_task(SleepPrevention(registry, caffeinate(os.getpid())).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def make_thinking(settings: Settings) -> EncodedThinking:
    """The encoder of thinking, with the key that the settings name."""
    return EncodedThinking(partial(load_installation_key, settings.installation_key_file))


def make_supervisor(
    settings: Settings,
    layout: RankLayout,
    command: Sequence[str],
    environ: Mapping[str, str],
    preloads: Preloads,
    screen: StartupScreen,
    observability: Observability,
    *,
    restart_limits: RestartLimits | None,
) -> Supervisor:
    """The supervisor of the worker, which is not started yet."""
    return Supervisor(
        to_configure(settings),
        command,
        worker_environ(
            {**environ, **dict(layout.variables)},
            preloads,
            runs_remote_code=bool(trusted_ids(settings.models)),
        ),
        timeouts=Timeouts(
            load_timeout_s=settings.load_timeout_s,
            stall_s=settings.stall_s,
            ranks_away_s=settings.ranks_away_s,
        ),
        on_loading=screen.show_loading,
        on_step=observability.step_stats.add_step,
        restart_limits=restart_limits,
        ranks=layout,
    )


def make_registry(settings: Settings, supervisor: Supervisor) -> RequestRegistry:
    """The registry of requests in flight, with the limits of the settings."""
    return RequestRegistry(
        supervisor,
        max_in_flight=settings.max_running + settings.max_waiting,
        load_wait_s=settings.load_wait_s,
        queue_timeout_s=settings.queue_timeout_s,
    )


def make_listener(
    settings: Settings,
    app: ASGIApp,
    listener: socket.socket,
    tls: ssl.SSLContext | None,
    peers: PeerNames,
) -> ConnectionListener:
    """The HTTP server on the socket `listener`, with the limits of the settings."""
    return ConnectionListener(
        app,
        listener,
        max_connections=connection_limit(settings.max_connections),
        max_header_bytes=settings.max_header_bytes,
        write_stall_s=settings.write_stall_s,
        clients=peers,
        tls=tls,
    )


def print_error(reason: str) -> None:
    """Print why the command ends."""
    sys.stderr.write(f"mlxd: {excerpt(conceal_secrets(reason), MESSAGE_CHARS)}\n")


def to_configure(settings: Settings) -> Configure:
    """The worker's configuration."""
    sources, preload = to_sources(
        settings.models,
        settings.idle_unload_s,
        settings.speculation,
        settings.kv_quantisation,
        settings.draft_model,
    )
    return Configure(
        models=sources,
        preload=preload,
        memory_wait_s=settings.memory_wait_s,
        stream_interval_s=settings.stream_interval_s,
        prefill_reserve_bytes=settings.prefill_reserve_bytes,
        wired_limit_bytes=settings.wired_limit_bytes,
        compiled_sampling=settings.compiled_sampling == "on",
        ranks_split=settings.ranks_split,
        max_running=settings.max_running,
        prefill_step_tokens=settings.prefill_step_tokens,
        context_limit_tokens=settings.context_limit_tokens,
        memory_limit_bytes=settings.memory_limit_bytes,
        cache_limit_bytes=settings.cache_limit_bytes,
        prompt_cache_bytes=settings.prompt_cache_bytes,
        prompt_cache_dir=settings.prompt_cache_dir,
        prompt_cache_dir_bytes=settings.prompt_cache_dir_bytes,
        prompt_cache_dir_reserve_bytes=settings.prompt_cache_dir_reserve_bytes,
        # So that the silent rank is named before the worker counts as hung without it.
        rank_silence_s=settings.stall_s / 2,
    )


def raise_open_files_limit() -> None:
    """Raise the soft limit on open files, which is 256 on macOS, within the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def connection_limit(max_connections: int) -> int:
    """`max_connections`, or fewer if the limit on open files allows only fewer."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return max_connections
    return max(1, min(max_connections, soft - OTHER_FILES))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The factory of uvloop if it is installed; None for asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
