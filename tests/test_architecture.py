"""The rules of the house, held by reading the source: who may import what, names, sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
PRODUCT = ("service", "worker", "protocol")
EVERYTHING = (*PRODUCT, "tests")

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

WORKER_SIDE = ("worker", "mlx", "mlx_lm", "transformers")
SERVICE_SIDE = ("service", "starlette", "hypercorn")
GENERATION = ("generate", "stream_generate", "batch_generate")  # mlx_lm re-exports these
GENERATION_OWNER = "worker/batches.py"
ENVIRONMENT_READERS = ("service/settings.py",)
ENVIRONMENT = ("environ", "environb", "getenv", "getenvb", "putenv", "unsetenv")
EMPTY_NAMES = ("util", "utils", "helper", "helpers", "manager", "managers", "base")


@dataclass(frozen=True)
class Source:
    """One source file; `path` is relative to the root of the repository."""

    path: str
    text: str

    @property
    def package(self) -> str:
        return PurePosixPath(self.path).parts[0]

    @property
    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(ast.parse(self.text, self.path))


Rule = Callable[[Source], list[str]]


# ---------------------------------------------------------------- reading


def sources(*packages: str) -> list[Source]:
    """Every Python file of `packages`. A package without files would prove nothing: an error."""
    found = []
    for package in packages:
        paths = sorted((ROOT / package).rglob("*.py"))
        assert paths, f"{package} has no source files"
        found += [
            Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
            for path in paths
        ]
    return found


def imported(source: Source) -> list[str]:
    """Dotted names of all that `source` imports, wherever in it; relative ones made absolute."""
    names = []
    for node in source.nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(source, node)
            names += [f"{origin}.{alias.name}" for alias in node.names]
    return names


def _origin(source: Source, node: ast.ImportFrom) -> str:
    here = PurePosixPath(source.path).parts[: -node.level] if node.level else ()
    return ".".join([*here, *([node.module] if node.module else [])])


def _within(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def violations(rule: Rule, *packages: str) -> list[str]:
    """What `rule` finds in `packages`, a line each."""
    return [
        f"{source.path}: {finding}" for source in sources(*packages) for finding in rule(source)
    ]


# ---------------------------------------------------------------- the rules


def worker_side_in_service(source: Source) -> list[str]:
    """The HTTP process must neither touch the device nor know the worker."""
    if source.package != "service":
        return []
    return [name for name in imported(source) if _within(name, WORKER_SIDE)]


def service_side_in_worker(source: Source) -> list[str]:
    """The device process must not know HTTP."""
    if source.package != "worker":
        return []
    return [name for name in imported(source) if _within(name, SERVICE_SIDE)]


def foreign_in_protocol(source: Source) -> list[str]:
    """Messages are data: msgspec and the standard library are enough."""
    if source.package != "protocol":
        return []
    allowed = ("protocol", "msgspec", *sys.stdlib_module_names)
    return [name for name in imported(source) if not _within(name, allowed)]


def generation_outside_batches(source: Source) -> list[str]:
    """mlx-lm's generation internals change with each release: one file follows them."""
    if source.path == GENERATION_OWNER:
        return []
    owned = tuple(f"mlx_lm.{name}" for name in GENERATION)
    return [name for name in imported(source) if _within(name, owned)]


def empty_module_names(source: Source) -> list[str]:
    """A module's name says what it is about."""
    parts = PurePosixPath(source.path).with_suffix("").parts
    return [part for part in parts if part.rsplit("_")[-1] in EMPTY_NAMES]


def environment_reads(source: Source) -> list[str]:
    """Settings are read once, in one place."""
    if source.path in ENVIRONMENT_READERS:
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
    functions = (
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in source.nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return [f"{name}: {lines} lines" for name, lines in functions if lines > MAX_FUNCTION_LINES]


# ---------------------------------------------------------------- the rules hold


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


# ---------------------------------------------------------------- the rules can fail

BROKEN: list[tuple[Rule, str, str]] = [
    (worker_side_in_service, "service/app.py", "import worker.main"),
    (worker_side_in_service, "service/app.py", "def f():\n    from mlx import core"),
    (worker_side_in_service, "service/endpoints/chat.py", "from ...worker import main"),
    (worker_side_in_service, "service/app.py", "import transformers"),
    (service_side_in_worker, "worker/main.py", "from service.settings import Settings"),
    (service_side_in_worker, "worker/main.py", "import starlette"),
    (service_side_in_worker, "worker/adapters/llama.py", "import hypercorn.asyncio as server"),
    (foreign_in_protocol, "protocol/messages.py", "import anyio"),
    (foreign_in_protocol, "protocol/messages.py", "from service import errors"),
    (generation_outside_batches, "worker/loop.py", "from mlx_lm.generate import BatchGenerator"),
    (generation_outside_batches, "worker/loop.py", "from mlx_lm import stream_generate"),
    (generation_outside_batches, "worker/loop.py", "import mlx_lm.generate as generation"),
    (empty_module_names, "service/utils.py", ""),
    (empty_module_names, "tests/helpers/streams.py", ""),
    (empty_module_names, "worker/model_manager.py", ""),
    (environment_reads, "worker/main.py", "import os\nprint(os.environ['HOME'])"),
    (environment_reads, "service/app.py", "import os\nif os.getenv('DEBUG'): pass"),
    (environment_reads, "service/app.py", "from os import environ"),
    (long_files, "worker/loop.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
    (long_functions, "worker/loop.py", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
    (long_functions, "worker/loop.py", "async def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES),
]


@pytest.mark.parametrize(("rule", "path", "text"), BROKEN)
def test_each_rule_catches_what_it_forbids(rule: Rule, path: str, text: str) -> None:
    assert rule(Source(path, text))


ALLOWED: list[tuple[Rule, str, str]] = [
    (worker_side_in_service, "service/app.py", "from protocol import messages\nimport workers"),
    (service_side_in_worker, "worker/main.py", "import mlx.core as mx\nfrom . import loop"),
    (foreign_in_protocol, "protocol/channel.py", "import queue\nfrom .messages import Submit"),
    (generation_outside_batches, "worker/batches.py", "from mlx_lm.generate import BatchGenerator"),
    (generation_outside_batches, "worker/pool.py", "from mlx_lm import load"),
    (empty_module_names, "service/supervisor.py", ""),
    (environment_reads, "service/settings.py", "import os\nos.environ"),
    (environment_reads, "worker/main.py", "import os\nos.getpid()"),
    (long_files, "worker/loop.py", "x = 1\n" * MAX_FILE_LINES),
    (long_functions, "worker/loop.py", "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)),
]


@pytest.mark.parametrize(("rule", "path", "text"), ALLOWED)
def test_each_rule_lets_pass_what_it_allows(rule: Rule, path: str, text: str) -> None:
    assert rule(Source(path, text)) == []
