"""What all tests share: tiny real models, made once, and no way to the network."""

from __future__ import annotations

import os
from pathlib import Path

# Before anything imports huggingface_hub, here or in a process started by a test.
os.environ["HF_HUB_OFFLINE"] = "1"
# Whoever runs the tests may have keys of their own.
os.environ["MLXD_KEYS_FILE"] = "off"

import pytest
from hypothesis import settings

from tests.models import families

settings.register_profile("mlxd", deadline=None)
settings.load_profile("mlxd")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the service does."""
    return "asyncio"


@pytest.fixture(scope="session")
def llama_path(models_folder: Path) -> Path:
    """A Llama 3. Its answers never end by themselves."""
    return families.make(families.LLAMA, models_folder / "tiny-llama")


@pytest.fixture(scope="session")
def qwen_path(models_folder: Path) -> Path:
    """A Qwen 3. Its answers never end by themselves."""
    return families.make(families.QWEN, models_folder / "tiny-qwen")


@pytest.fixture(scope="session")
def gemma_path(models_folder: Path) -> Path:
    """A Gemma 3, with a sliding window. Its answers never end by themselves."""
    return families.make(families.GEMMA, models_folder / "tiny-gemma")


@pytest.fixture(scope="session")
def brief_path(models_folder: Path) -> Path:
    """A Llama 3 most of whose answers end by themselves within a hundred tokens or two."""
    return families.make(families.LLAMA, models_folder / "tiny-brief", brief=True)


@pytest.fixture(scope="session")
def model_paths(llama_path: Path, qwen_path: Path, gemma_path: Path) -> dict[str, Path]:
    """The three families' models by name: llama, qwen, gemma."""
    return {"llama": llama_path, "qwen": qwen_path, "gemma": gemma_path}


@pytest.fixture(scope="session")
def models_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")
