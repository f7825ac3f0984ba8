"""`mlxd models` tells what is on disk without a service, and what is loaded beside one."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.commands.main import main
from tests.e2e.daemon import free_port, running


def test_models_are_listed_by_what_is_on_disk(
    llama_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hollow").mkdir()
    flags = [
        f"--port={free_port()}",
        f"--model=small={llama_path}",
        f"--model={tmp_path / 'hollow'}",
        "--model=org/not-downloaded",
    ]
    assert main(["models", *flags], {}) == 0
    told = capsys.readouterr()
    small, hollow, absent = told.out.splitlines()[1:]
    assert small.startswith("small")
    assert "MiB" in small
    assert "config.json is missing" in hollow
    assert "mlxd pull org/not-downloaded" in absent
    assert "nobody answers" in told.err


def test_a_running_service_is_asked_what_is_loaded(
    llama_path: Path, qwen_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(llama_path, qwen_path) as daemon:
        flags = [f"--port={daemon.port}", f"--model={llama_path}", f"--model={qwen_path}"]
        assert main(["models", *flags], {}) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[-1] for row in rows] == ["loaded", "unloaded"]


def test_a_model_that_cannot_be_downloaded_is_one_clear_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["pull", "no/such/hub/id"], {}) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("mlxd: no/such/hub/id cannot be downloaded: ")
