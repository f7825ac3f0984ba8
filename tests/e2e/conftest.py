"""Shared services for tests that do not damage them: tiny real models, and the built-in model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import PATIENT, Daemon, running


@pytest.fixture(scope="session")
def daemon(llama_path: Path, qwen_path: Path, gemma_path: Path) -> Iterator[Daemon]:
    """A service of three models, the first of them loaded."""
    with running(llama_path, qwen_path, gemma_path) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def demo() -> Iterator[Daemon]:
    """A service of the built-in model."""
    with running(flags=PATIENT) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def http(daemon: Daemon) -> Iterator[httpx.Client]:
    """Plain requests to the service of three models."""
    with plain_http.client(daemon.url) as client:
        yield client


@pytest.fixture(scope="session")
def client(daemon: Daemon) -> Iterator[openai.OpenAI]:
    """The `openai` package's requests to the service of three models."""
    with openai.OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as client:
        yield client
