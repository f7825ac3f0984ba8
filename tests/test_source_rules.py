"""Rules of the source: what may be imported where, names, the environment, sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import PurePosixPath

import pytest

from tests.sources import (
    EVERYTHING,
    PRODUCT,
    ROOT,
    Rule,
    Source,
    imported,
    outline,
    sources,
    violations,
    within,
)

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

WORKER_SIDE = ("worker", "mlx", "mlx_lm", "transformers")
SERVICE_SIDE = ("service", "starlette", "hypercorn")
GENERATION = ("generate", "stream_generate", "batch_generate")  # mlx_lm re-exports these
GENERATION_OWNER = "worker/engine/rows/"
# MLX takes the addresses of its ring from variables alone, which the latter sets.
ENVIRONMENT_READERS = ("service/config/settings.py", "worker/ranks/joining/backends.py")
ENVIRONMENT = ("environ", "environb", "getenv", "getenvb", "putenv", "unsetenv")
EMPTY_NAMES = ("util", "utils", "helper", "helpers", "manager", "managers", "base")


def worker_side_in_service(source: Source) -> list[str]:
    """The HTTP process must neither touch the device nor know the worker."""
    if source.package != "service":
        return []
    return [name for name in imported(source) if within(name, WORKER_SIDE)]


def service_side_in_worker(source: Source) -> list[str]:
    """The device process must not know HTTP."""
    if source.package != "worker":
        return []
    return [name for name in imported(source) if within(name, SERVICE_SIDE)]


def foreign_in_protocol(source: Source) -> list[str]:
    """Messages are data: msgspec and the standard library are enough."""
    if source.package != "protocol":
        return []
    allowed = ("protocol", "msgspec", *sys.stdlib_module_names)
    return [name for name in imported(source) if not within(name, allowed)]


def generation_outside_batches(source: Source) -> list[str]:
    """mlx-lm's generation internals change with each release: one folder follows them."""
    if source.path.startswith(GENERATION_OWNER):
        return []
    owned = tuple(f"mlx_lm.{name}" for name in GENERATION)
    return [name for name in imported(source) if within(name, owned)]


def empty_module_names(source: Source) -> list[str]:
    """A module's name says what it is about."""
    parts = PurePosixPath(source.path).with_suffix("").parts
    return [part for part in parts if part.rsplit("_")[-1] in EMPTY_NAMES]


def environment_reads(source: Source) -> list[str]:
    """Settings are read once, in one place."""
    if source.path in ENVIRONMENT_READERS or not source.mentions(*ENVIRONMENT):
        return []
    attributes = [
        f"os.{node.attr}"
        for node in source.nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]
    forbidden = tuple(f"os.{name}" for name in ENVIRONMENT)
    return [name for name in attributes + imported(source) if name in forbidden]


def long_files(source: Source) -> list[str]:
    """A file is read in one sitting."""
    lines = len(source.text.splitlines())
    return [f"{lines} lines"] if lines > MAX_FILE_LINES else []


def long_functions(source: Source) -> list[str]:
    """A function is seen on one screen."""
    return [
        f"{name}: {lines} lines"
        for name, lines in outline(source).functions
        if lines > MAX_FUNCTION_LINES
    ]


def test_the_service_imports_neither_the_worker_nor_mlx() -> None:
    assert violations(worker_side_in_service, *PRODUCT) == []


def test_the_worker_imports_neither_the_service_nor_its_web_server() -> None:
    assert violations(service_side_in_worker, *PRODUCT) == []


def test_the_protocol_imports_only_msgspec_and_the_standard_library() -> None:
    assert violations(foreign_in_protocol, *PRODUCT) == []


def test_only_the_batches_import_the_generation_of_mlx_lm() -> None:
    assert violations(generation_outside_batches, *PRODUCT) == []


def test_no_module_is_named_for_nothing() -> None:
    assert violations(empty_module_names, *EVERYTHING) == []


def test_only_settings_reads_the_environment() -> None:
    assert violations(environment_reads, *PRODUCT) == []


def test_no_file_is_over_400_lines() -> None:
    assert violations(long_files, *EVERYTHING) == []


def test_no_function_is_over_60_lines() -> None:
    assert violations(long_functions, *EVERYTHING) == []


def test_a_process_that_imports_the_whole_service_has_loaded_no_mlx() -> None:
    modules = [
        source.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for source in sources("service")
    ]
    program = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted(set({WORKER_SIDE!r}) & set(sys.modules)))"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (outcome.returncode, outcome.stdout.strip()) == (0, "[]"), outcome.stderr


BROKEN: list[tuple[Rule, str, str]] = [
    (worker_side_in_service, "service/app.py", "import worker.main"),
    (worker_side_in_service, "service/app.py", "def f():\n    from mlx import core"),
    (worker_side_in_service, "service/api/chat/format.py", "from ....worker import main"),
    (worker_side_in_service, "service/app.py", "import transformers"),
    (service_side_in_worker, "worker/main.py", "from service.config.settings import Settings"),
    (service_side_in_worker, "worker/main.py", "import starlette"),
    (service_side_in_worker, "worker/models/llama.py", "import hypercorn.asyncio as server"),
    (foreign_in_protocol, "protocol/messages.py", "import anyio"),
    (foreign_in_protocol, "protocol/messages.py", "from service import errors"),
    (
        generation_outside_batches,
        "worker/scheduler/core.py",
        "from mlx_lm.generate import BatchGenerator",
    ),
    (generation_outside_batches, "worker/scheduler/core.py", "from mlx_lm import stream_generate"),
    (
        generation_outside_batches,
        "worker/scheduler/core.py",
        "import mlx_lm.generate as generation",
    ),
    (empty_module_names, "service/utils.py", ""),
    (empty_module_names, "tests/helpers/streams.py", ""),
    (empty_module_names, "worker/model_manager.py", ""),
    (environment_reads, "worker/main.py", "import os\nprint(os.environ['HOME'])"),
    (environment_reads, "service/app.py", "import os\nif os.getenv('DEBUG'): pass"),
    (environment_reads, "service/app.py", "from os import environ"),
    (long_files, "worker/scheduler/core.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
    (long_functions, "worker/scheduler/core.py", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
    (
        long_functions,
        "worker/scheduler/core.py",
        "async def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES,
    ),
]


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN)
def test_each_rule_catches_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    assert rule(Source(path, text))


ALLOWED: list[tuple[Rule, str, str]] = [
    (worker_side_in_service, "service/app.py", "from protocol import messages\nimport workers"),
    (service_side_in_worker, "worker/main.py", "import mlx.core as mx\nfrom . import loop"),
    (foreign_in_protocol, "protocol/channel.py", "import queue\nfrom .messages import Submit"),
    (
        generation_outside_batches,
        "worker/engine/rows/prompt_batch.py",
        "from mlx_lm.generate import BatchGenerator",
    ),
    (generation_outside_batches, "worker/models/pool.py", "from mlx_lm import load"),
    (empty_module_names, "service/supervision/supervisor.py", ""),
    (environment_reads, "service/config/settings.py", "import os\nos.environ"),
    (environment_reads, "worker/main.py", "import os\nos.getpid()"),
    (long_files, "worker/scheduler/core.py", "x = 1\n" * MAX_FILE_LINES),
    (
        long_functions,
        "worker/scheduler/core.py",
        "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1),
    ),
]


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_each_rule_lets_pass_what_it_allows(rule: Rule, path: str, text: str) -> None:
    assert rule(Source(path, text)) == []
