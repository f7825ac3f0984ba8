"""The environment of the worker process, and which `worker` package it runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import worker
from service.config.api_keys import API_KEYS_VARIABLE
from service.supervision.preloads import Preloads
from service.supervision.process import WORKER_COMMAND, worker_environ


def test_the_environment_is_inherited_and_has_the_preloaded_libraries() -> None:
    environ = worker_environ({"A": "1", "LD_PRELOAD": "x.so"}, Preloads("/lib/blas.so"))
    assert (environ["A"], environ["LD_PRELOAD"]) == ("1", "/lib/blas.so x.so")


def test_the_api_keys_are_not_in_the_environment() -> None:
    assert API_KEYS_VARIABLE not in worker_environ({API_KEYS_VARIABLE: "KEY"}, Preloads())


def test_a_folder_named_worker_in_the_current_directory_is_not_imported(
    tmp_path: Path,
) -> None:
    other = tmp_path / "worker"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('the wrong worker')")
    python, *options, _ = WORKER_COMMAND[:-1]
    completed = subprocess.run(
        [python, *options, "-c", "import worker; print(worker.__file__)"],
        cwd=tmp_path,
        env=worker_environ({}, Preloads()),
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed.stdout.strip() == worker.__file__


def test_a_worker_that_runs_a_models_code_gets_no_secrets() -> None:
    secrets = {"HF_TOKEN": "a", "MY_API_KEY": "a", "X_HEADERS": "a", "PROXY": "http://me:pw@host"}
    kept = {"PATH": "/bin", "HF_HOME": "/h", "TOKENIZERS_PARALLELISM": "false"}
    environ = worker_environ({**secrets, **kept}, Preloads(), runs_remote_code=True)
    assert not secrets.keys() & environ.keys()
    assert kept.items() <= environ.items()
    assert environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"
    assert secrets.items() <= worker_environ(secrets, Preloads()).items()
