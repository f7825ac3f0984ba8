"""From the command line to a running service."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

from rich.console import Console

from protocol.messages import Configure, ModelSource
from service.app import build_app
from service.catalog import Catalog
from service.connections import Connections, bind, url_of
from service.generations import Generations
from service.logs import configure_logging
from service.process import WORKER_COMMAND, worker_environ
from service.restarts import Pace
from service.screen import StartScreen
from service.server import EXIT_FAILED, Server
from service.settings import Settings, SettingsError, load_settings, model_id, read_environment
from service.supervisor import Patience, Supervisor
from service.telemetry import instrument

EXIT_USAGE = 2
OPEN_FILES = 8192
# For the worker's pipe, libraries, logs: what is not a connection.
OTHER_FILES = 64


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the command; its exit code."""
    environ = read_environment() if environ is None else environ
    try:
        settings = load_settings(sys.argv[1:] if argv is None else argv, environ)
    except SettingsError as error:
        complain(str(error))
        return EXIT_USAGE
    configure_logging(settings.log_level, settings.log_format)
    try:
        listener = bind(settings.host, settings.port)
    except OSError as error:
        complain(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
        return EXIT_FAILED
    allow_open_files()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(serve(settings, listener, environ))


async def serve(
    settings: Settings,
    listener: socket.socket,
    environ: Mapping[str, str],
    *,
    worker_command: Sequence[str] = WORKER_COMMAND,
    pace: Pace | None = None,
) -> int:
    """Wire the parts together and run them; the process's exit code."""
    screen = StartScreen(Console())
    url = url_of(listener)
    supervisor = Supervisor(
        to_configure(settings),
        worker_command,
        worker_environ(environ, settings.blas),
        patience=Patience(load_timeout_s=settings.load_timeout_s, stall_s=settings.stall_s),
        on_loading=screen.show_loading,
        pace=pace,
    )
    generations = Generations(
        supervisor,
        max_in_flight=settings.max_running + settings.max_waiting,
        load_wait_s=settings.load_wait_s,
        queue_timeout_s=settings.queue_timeout_s,
    )
    supervisor.listen(generations)
    catalog = Catalog([model_id(model) for model in settings.models])
    api = build_app(settings, catalog, supervisor, generations, version("mlxd"))
    app, shut_down_telemetry = instrument(api, settings.telemetry)

    def show_ready() -> None:
        if supervisor.ready is not None:
            screen.show_ready(supervisor.ready, url)

    connections = Connections(
        app,
        listener,
        max_connections=connection_limit(settings.max_connections),
        max_header_bytes=settings.max_header_bytes,
        write_stall_s=settings.write_stall_s,
    )
    server = Server(
        connections, supervisor, generations, drain_s=settings.drain_s, on_ready=show_ready
    )
    status = await server.run()
    shut_down_telemetry()
    screen.close()
    if supervisor.failure is not None:
        complain(supervisor.failure)
    return status


def complain(reason: str) -> None:
    """Say on one line why the command ends."""
    sys.stderr.write(f"mlxd: {reason}\n")


def to_configure(settings: Settings) -> Configure:
    """The settings that are the worker's."""
    return Configure(
        models=[ModelSource(model_id(model), model.source) for model in settings.models],
        max_running=settings.max_running,
        prefill_step_tokens=settings.prefill_step_tokens,
        context_limit_tokens=settings.context_limit_tokens,
        memory_limit_bytes=settings.memory_limit_bytes,
        cache_limit_bytes=settings.cache_limit_bytes,
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
