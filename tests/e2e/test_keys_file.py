"""The keys file: keys added, listed and revoked while the service runs, and none of them in it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from tests.e2e import plain_http
from tests.e2e.faulty import faulty
from tests.e2e.keys import add_key, bearer, run_keys, run_keys_program


def test_keys_are_added_listed_and_revoked_while_the_service_runs(tmp_path: Path) -> None:
    path = tmp_path / "mlxd" / "keys.json"
    laptop = run_keys_program(path, "add", "laptop").stdout.strip()
    with faulty("--keys-file", str(path)) as daemon:

        def status(key: str) -> int:
            return plain_http.get(f"{daemon.url}/v1/models", headers=bearer(key)).status_code

        assert status(laptop) == 200
        phone = add_key(path, "phone", "--admin")
        daemon.wait_for(lambda: status(phone) == 200)
        assert status(laptop) == 200
        assert run_keys_program(path, "revoke", "laptop").returncode == 0
        daemon.wait_for(lambda: status(laptop) == 401)
        assert status(phone) == 200
        path.write_text("{")
        daemon.wait_for(lambda: status(phone) == 200 and "keys read before" in daemon.output)
        assert (status(phone), status(laptop)) == (200, 401)
        path.unlink()
        daemon.wait_for(lambda: status(phone) == 200 and "its keys stay" in daemon.output)
        assert (status(phone), status(laptop)) == (200, 401)
        assert not any(key in daemon.output for key in (laptop, phone))


def test_the_file_holds_no_key_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlxd" / "keys.json"
    key = add_key(path, "laptop")
    assert re.fullmatch(r"mlxd-[A-Za-z0-9_-]{43}", key)
    text = path.read_text()
    assert key not in text
    assert hashlib.sha256(key.encode()).hexdigest() in text
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["keys.json"]


def test_the_list_tells_names_and_limits_and_no_key(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    key = add_key(path, "phone", "--max-concurrent", "2", "--tokens-per-minute", "500")
    add_key(path, "root", "--admin")
    listed = run_keys(path, "list").stdout
    phone, root = (line for line in listed.splitlines() if line.startswith(("phone", "root")))
    assert "2 concurrent requests" in phone
    assert "500 tokens per minute" in phone
    assert "admin" in root
    assert key not in listed


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["add", "laptop"], "there is a key named laptop"),
        (["add", "a b"], "a b is not a name"),
        (["add", "x" * 65], "is not a name"),
        (["revoke", "phone"], "there is no key named phone"),
        (["add", "x", "--max-concurrent", "-1"], "--max-concurrent"),
        (["frob"], "frob"),
        ([], "add"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    words: list[str], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "laptop")
    before = path.read_bytes()
    ended = run_keys(path, *words)
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert reason in line
    assert path.read_bytes() == before


def test_a_file_without_keys_lets_nobody_in_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    add_key(path, "laptop")
    assert "every request is refused" in run_keys(path, "revoke", "laptop").stderr
    with faulty("--keys-file", str(path), wait=False) as daemon:
        daemon.wait_until("status", be="healthy")
        assert plain_http.get(f"{daemon.url}/v1/models").status_code == 401
