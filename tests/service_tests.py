"""Which tests start a service or a worker, and in which order tests run."""

from __future__ import annotations

import functools
from types import ModuleType

import pytest

from service.host.device_probe import probe
from service.selftest.resume import check_resume
from service.supervision.process import WORKER_COMMAND, WorkerProcess
from tests.e2e.daemon import running
from tests.fakes.service import FAKE_WORKER_COMMAND
from worker.intake.preparation_process import PreparationProcess

ROOT_FOLDERS = ("tests/e2e/", "tests/worker/", "tests/test_", "tests/")
# A module that has one of these starts processes with it.
STARTERS = (
    WorkerProcess,
    WORKER_COMMAND,
    PreparationProcess,
    probe,
    running,
    FAKE_WORKER_COMMAND,
    check_resume,
)
# The same, by name: it is imported after tests/conftest.py has imported mlx-lm.
STARTING_MODULES = ("tests.worker.ranks.grouped",)


def starts_service(item: pytest.Item) -> bool:
    """Whether the test starts a service or a worker, or its module's other tests do."""
    if item.nodeid.startswith("tests/e2e/"):
        return True
    module = item.getparent(pytest.Module)
    return module is not None and has_starter(module.obj)


@functools.cache
def has_starter(module: ModuleType) -> bool:
    """Whether a module has something that starts processes."""
    return any(is_starter(value) for value in vars(module).values())


def is_starter(value: object) -> bool:
    """Whether a test that has this starts processes with it."""
    if isinstance(value, ModuleType):
        return value.__name__ in STARTING_MODULES
    return any(value is starter for starter in STARTERS)


def place(item: pytest.Item) -> int:
    """The longest files first, so that at the end all processes have something to run."""
    return next(n for n, folder in enumerate(ROOT_FOLDERS) if item.nodeid.startswith(folder))
