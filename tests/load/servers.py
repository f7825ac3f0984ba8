"""The servers that are compared, each started as its users start it, with the same model."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from service.config.settings import read_environment
from service.supervision.preloads import find_preloads
from service.supervision.process import worker_environ
from tests.e2e.daemon import free_port, running
from tests.models import families, smollm2
from tests.waiting import wait_for

SMOLLM2 = "smollm2"
MODEL_HELP = f"a folder, or {SMOLLM2} for the one of the Python index; else a tiny model is made"
# The model size that the targets are set for: 0.3 M parameters, 2,048 tokens.
TINY = replace(families.LLAMA, sizes={**families.LLAMA.sizes, "vocab_size": 2048})


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    url: str
    pid: int


def find_model(text: str) -> Path:
    """The folder of the model that an argument names.

    Raises:
        argparse.ArgumentTypeError: the model's package is not available.
    """
    if text != SMOLLM2:
        return Path(text)
    try:
        return smollm2.float32_path()
    except smollm2.PackageUnavailable as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def make_tiny(folder: Path) -> Path:
    """The model that is measured by default."""
    return families.make(TINY, folder / "tiny")


@contextmanager
def mlxd(model: Path, max_running: int) -> Iterator[Server]:
    """mlxd."""
    flags = ["--max-running", str(max_running), "--log-level", "warning"]
    with running(f"default_model={model}", flags=flags) as daemon:
        yield Server("mlxd", daemon.url, daemon.process.pid)


@contextmanager
def mlx_lm_server(
    model: Path, max_running: int, more_flags: Sequence[str] = ()
) -> Iterator[Server]:
    """mlx_lm.server, the peer."""
    port = free_port()
    flags = ["--model", str(model), "--port", str(port), "--log-level", "ERROR"]
    flags += ["--decode-concurrency", str(max_running), *more_flags]
    with started(["-m", "mlx_lm", "server", *flags]) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_answering(process, url)
        yield Server("mlx_lm.server", url, process.pid)


@contextmanager
def started(words: list[str], *, allocator: str = "off") -> Iterator[subprocess.Popen[bytes]]:
    """A Python program with the BLAS that mlxd's worker has; ended with the block.

    With "auto" it has the worker's allocator too, which nobody who starts it would give it.
    """
    process = subprocess.Popen(
        [sys.executable, *words],
        env=worker_environ(read_environment(), find_preloads("auto", allocator)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def wait_until_answering(process: subprocess.Popen[bytes], url: str) -> None:
    """Wait until it lists its models."""

    def is_answering() -> bool:
        assert process.poll() is None, f"{url} has ended"
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/v1/models").status_code == 200
        return False

    wait_for(is_answering, lambda: f"{url} does not answer")
