"""mlx-lm's import neither fails at a low limit on open files nor lowers a high one."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import pytest

from protocol.channel import service_end as service_channel
from protocol.messages import Shutdown
from service.supervision.preloads import find_preloads
from service.supervision.process import WORKER_COMMAND, worker_environ
from tests.waiting import HANG_S

IMPORT = """
import resource
from worker.open_files import open_files_limit_kept
set_limit = resource.setrlimit
with open_files_limit_kept():
    import mlx_lm.utils
assert resource.setrlimit is set_limit
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def under_limits(soft: int, hard: int, *command: str) -> list[str]:
    """`command` with other limits on open files."""
    shell = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
    return ["/bin/sh", "-c", shell, "sh", *command]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((256, 1024), "1024 1024"),
        pytest.param((1024, 1024), "1024 1024", marks=pytest.mark.long),
        pytest.param((256, 3000), "2048 3000", marks=pytest.mark.long),
        ((5000, 6000), "5000 6000"),
    ],
)
def test_the_import_raises_the_soft_limit_at_most_to_the_hard_one(
    limits: tuple[int, int], expected: str
) -> None:
    command = under_limits(*limits, sys.executable, "-c", IMPORT)
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=True)
    assert done.stdout.strip() == expected


@pytest.mark.parametrize("hard", [128, pytest.param(1024, marks=pytest.mark.long)])
def test_a_worker_starts_under_a_low_hard_limit(hard: int) -> None:
    service_end, worker_end = multiprocessing.Pipe()
    with service_end, worker_end:
        # It reads this after its imports, and exits.
        service = service_channel(service_end)
        service.send(Shutdown())
        done = subprocess.run(
            [*under_limits(hard, hard, *WORKER_COMMAND), str(worker_end.fileno())],
            env=worker_environ(os.environ, find_preloads("off", "off")),
            pass_fds=[worker_end.fileno()],
            capture_output=True,
            text=True,
            timeout=HANG_S,
        )
        service.close()
    assert (done.returncode, done.stderr) == (0, "")
