"""`mlxd models` lists models without a service, and shows the states of a running one."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.commands.main import main
from tests.e2e.daemon import free_port, running


def test_models_are_listed_with_their_files_on_disk(
    llama_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    flags = [
        f"--port={free_port()}",
        f"--model=small={llama_path}",
        f"--model={tmp_path / 'empty'}",
        "--model=org/not-downloaded",
    ]
    assert main(["models", *flags], {}) == 0
    output = capsys.readouterr()
    small, empty, missing = output.out.splitlines()[1:]
    assert small.startswith("small")
    assert "MiB" in small
    assert "config.json is missing" in empty
    assert "mlxd pull org/not-downloaded" in missing
    assert "no service answers" in output.err


def test_the_states_of_a_running_service_are_shown(
    llama_path: Path, qwen_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(llama_path, qwen_path) as daemon:
        flags = [f"--port={daemon.port}", f"--model={llama_path}", f"--model={qwen_path}"]
        assert main(["models", *flags], {}) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[-1] for row in rows] == ["loaded", "unloaded"]


def test_a_failed_download_is_reported_on_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["pull", "no/such/hub/id"], {}) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("mlxd: no/such/hub/id cannot be downloaded: ")
