"""The setting response_store of a real service: a file of its own, or a refusal in one line."""

from __future__ import annotations

import stat
from pathlib import Path

from tests.e2e import plain_http
from tests.e2e.daemon import running


def test_a_file_is_for_one_service_and_its_user(llama_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "state" / "responses.db"
    flags = ["--response-store", str(path)]
    with running(llama_path, flags=flags) as daemon:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with running(llama_path, flags=flags, wait=False) as second:
            assert second.wait() == 1
        [line] = [line for line in second.lines if "response_store" in line]
        assert line.startswith("mlxd: response_store:")
        assert "another service has it open" in line
        assert "Traceback" not in second.output
        metrics = plain_http.get(f"{daemon.url}/metrics").text
        assert "mlxd_response_store_bytes" in metrics
        assert "mlxd_response_store_evictions_total" in metrics
    assert [file.name for file in path.parent.iterdir()] == [path.name]
