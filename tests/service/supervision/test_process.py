"""The worker's environment: ours, with what is preloaded, and the worker that belongs to us."""

from __future__ import annotations

import subprocess
from pathlib import Path

import worker
from service.config.api_keys import API_KEYS_VARIABLE
from service.supervision.preloads import Preloads
from service.supervision.process import WORKER_COMMAND, worker_environ


def test_what_is_preloaded_is_in_its_environment_with_all_of_ours() -> None:
    environ = worker_environ({"A": "1", "LD_PRELOAD": "x.so"}, Preloads("/lib/blas.so"))
    assert (environ["A"], environ["LD_PRELOAD"]) == ("1", "/lib/blas.so x.so")


def test_what_clients_are_known_by_is_not() -> None:
    assert API_KEYS_VARIABLE not in worker_environ({API_KEYS_VARIABLE: "KEY"}, Preloads())


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
        env=worker_environ({}, Preloads()),
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == worker.__file__
