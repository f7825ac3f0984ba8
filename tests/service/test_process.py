"""The worker's environment: ours, with a quick BLAS, and with the worker that belongs to us."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import worker
from service.process import WORKER_COMMAND, find_blas, worker_environ

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")


def test_without_blas_the_environment_is_ours() -> None:
    environ = worker_environ({"A": "1", "LD_PRELOAD": "x.so"}, "off")
    assert (environ["A"], environ["LD_PRELOAD"]) == ("1", "x.so")
    assert "OPENBLAS_NUM_THREADS" not in environ


@linux_only
def test_a_library_named_by_its_path_comes_before_what_was_preloaded() -> None:
    environ = worker_environ({"LD_PRELOAD": "x.so"}, "/lib/blas.so")
    assert environ["LD_PRELOAD"] == "/lib/blas.so x.so"
    assert environ["OPENBLAS_NUM_THREADS"] == "1"


@linux_only
def test_a_number_of_threads_that_is_set_stays() -> None:
    assert worker_environ({"OPENBLAS_NUM_THREADS": "4"}, "/b.so")["OPENBLAS_NUM_THREADS"] == "4"


def test_off_finds_no_library() -> None:
    assert find_blas("off") is None


def test_a_folder_of_the_same_name_where_the_service_was_started_is_not_taken(
    tmp_path: Path,
) -> None:
    impostor = tmp_path / "worker"
    impostor.mkdir()
    (impostor / "__init__.py").write_text("raise SystemExit('the wrong worker')")
    python, *options, _ = WORKER_COMMAND[:-1]
    told = subprocess.run(
        [python, *options, "-c", "import worker; print(worker.__file__)"],
        cwd=tmp_path,
        env=worker_environ({}, "off"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == worker.__file__
