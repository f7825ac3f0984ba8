"""`python -m tests.fakes.service serve ...`: the real service with the fake worker.

Its restarts are fast, so that tests need not wait. `--deaths-tolerated` is the number of
exits after which the service has failed, `--sound-after-s` the time after which a worker
is healthy, `--worker` the module of another worker.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from service.commands.rank_layout import choose_layout
from service.commands.serve import log_file, loop_factory, serve
from service.config.sources import load_settings
from service.host.log_setup import configure_logging
from service.security.keyring import open_keyring
from service.supervision.restart_policy import RestartLimits
from service.transport.listener import bind
from service.transport.tls import make_tls

FAKE_WORKER_COMMAND = (sys.executable, "-m", "tests.fakes.worker")


def run(argv: list[str]) -> int:
    """Serve; returns the exit code."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("--deaths-tolerated", type=int, default=10**6)
    parser.add_argument("--sound-after-s", type=float, default=10.0)
    parser.add_argument("--worker")
    own, flags = parser.parse_known_args(argv)
    settings = load_settings(flags, os.environ)
    flush_logs = configure_logging(settings.log_level, settings.log_format, file=log_file(settings))
    restart_limits = RestartLimits(
        initial_back_off_s=0.01,
        max_back_off_s=0.05,
        healthy_after_s=own.sound_after_s,
        exits_before_failure=own.deaths_tolerated,
        slow_retry_s=0.5,
    )
    listener = bind(settings.host, settings.port)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        status = runner.run(
            serve(
                settings,
                listener,
                os.environ,
                open_keyring(settings),
                make_tls(settings),
                layout=choose_layout(settings),
                worker_command=command_of(own.worker),
                restart_limits=restart_limits,
            )
        )
    flush_logs()
    return status


def command_of(module: str | None) -> tuple[str, ...]:
    """The command of the worker in this module, by default of the fake one."""
    return FAKE_WORKER_COMMAND if module is None else (sys.executable, "-m", module)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
