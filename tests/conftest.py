"""What all tests share: tiny real models, made once, and no way to the network."""

from __future__ import annotations

import fcntl
import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

# Before anything imports huggingface_hub, here or in a process started by a test.
os.environ["HF_HUB_OFFLINE"] = "1"
# Whoever runs the tests may have keys of their own.
os.environ["MLXD_KEYS_FILE"] = "off"
os.environ["MLXD_INSTALLATION_KEY_FILE"] = "off"

# The tests start hundreds of processes: with a value here each would compile all its modules.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""

import pytest
from hypothesis import settings

from tests import batch_policy, long_tests, preloaded, service_tests
from worker.open_files import open_files_limit_kept
from worker.transformers_scan import models_scanned_once

with open_files_limit_kept(), models_scanned_once():
    # Here first: it would lower the limit on open files of this process and of its children.
    import mlx_lm  # noqa: F401

from tests.mark_expressions import leaves_out
from tests.models import families, smollm2
from tests.processes import left_processes, mark_session

# Nor does each process of `pytest -n` rewrite the assertions of all tests.
sys.dont_write_bytecode = False

# Each run draws other examples. Where CI runs them there are as many as hypothesis has by default;
# elsewhere fewer, which takes half a minute of processor time less.
settings.register_profile("mlxd", deadline=None, max_examples=100 if "CI" in os.environ else 30)
settings.load_profile("mlxd")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """The processes of `pytest -n` compute with the libraries that a worker computes with."""
    preloaded.give(os.environ)


def pytest_sessionstart(session: pytest.Session) -> None:
    """What is preloaded here is not for the processes that tests start."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        preloaded.take_back(os.environ)
    # Services would be batch work, too.
    if leaves_out(session.config.getoption("markexpr"), "service"):
        batch_policy.become_batch_work()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among what stays: that is 40 % of the time of a collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Whether a file has nothing that is to run, so that it need not be imported."""
    marks: str = config.getoption("markexpr")
    return long_tests.leaves_out_whole_file(collection_path, marks) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts a service or a worker, and run it first: what ends last should be short."""
    for item in items:
        if service_tests.starts_service(item):
            item.add_marker("service")
    items.sort(key=service_tests.place)


@pytest.fixture(scope="session", autouse=True)
def _no_process_left() -> Iterator[None]:
    """Whoever starts a process waits for it."""
    mark_session()
    yield
    assert left_processes() == []


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def llama_path(models_folder: Path) -> Path:
    """A Llama 3. Its answers never end by themselves."""
    return make_once(families.LLAMA, models_folder / "tiny-llama")


@pytest.fixture(scope="session")
def qwen_path(models_folder: Path) -> Path:
    """A Qwen 3. Its answers never end by themselves."""
    return make_once(families.QWEN, models_folder / "tiny-qwen")


@pytest.fixture(scope="session")
def gemma_path(models_folder: Path) -> Path:
    """A Gemma 3, with a sliding window. Its answers never end by themselves."""
    return make_once(families.GEMMA, models_folder / "tiny-gemma")


@pytest.fixture(scope="session")
def brief_path(models_folder: Path) -> Path:
    """A Llama 3 most of whose answers end by themselves within a hundred tokens or two."""
    return make_once(families.LLAMA, models_folder / "tiny-brief", brief=True)


@pytest.fixture(scope="session")
def model_paths(llama_path: Path, qwen_path: Path, gemma_path: Path) -> dict[str, Path]:
    """The three families' models by name: llama, qwen, gemma."""
    return {"llama": llama_path, "qwen": qwen_path, "gemma": gemma_path}


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct in float32."""
    return published(smollm2.float32_path)


@pytest.fixture(scope="session")
def smollm2_4bit_path() -> Path:
    """SmolLM2-135M-Instruct with weights of 4 bits."""
    return published(smollm2.quantised_path)


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """all-MiniLM-L6-v2 in float32."""
    # Here because `onnx`, with which it is made, takes a second to import.
    from tests.models.embedding import minilm

    return published(minilm.folder_path)


def published(make: Callable[[], Path]) -> Path:
    """A model out of a package; without it a test is skipped, or fails where CI runs it."""
    try:
        return make()
    except smollm2.PackageUnavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"the model's package is required here: {error}")
        pytest.skip(f"the package {smollm2.PACKAGE} is not available: {error}")


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of `pytest -n`."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    path = folder / "models"
    path.mkdir(exist_ok=True)
    return path


def make_once(family: families.Family, folder: Path, *, brief: bool = False) -> Path:
    """The model in `folder`, made by the first process that asks for it."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            families.make(family, folder.with_suffix(".new"), brief=brief).rename(folder)
    return folder
