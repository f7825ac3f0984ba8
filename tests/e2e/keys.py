"""API keys for services under test."""

from __future__ import annotations

import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from service.commands.main import main
from tests.waiting import HANG_S

PLAIN = "environment-key-0001"
NAMED = "environment-key-0002"
ADMIN = "environment-key-0003"
KEYS = {"MLXD_API_KEYS": f"{PLAIN}, alice:{NAMED}, root:admin:{ADMIN}"}
SECRETS = (PLAIN, NAMED, ADMIN)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def run_keys(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`mlxd keys` in this process: its imports would take longer than what it does."""
    command = ["keys", *words, "--keys-file", str(path)]
    with redirect_stdout(StringIO()) as output, redirect_stderr(StringIO()) as errors:
        status = main(command, {})
    return subprocess.CompletedProcess(command, status, output.getvalue(), errors.getvalue())


def run_keys_program(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`mlxd keys` as a user runs it."""
    command = [sys.executable, "-m", "service", "keys", *words, "--keys-file", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)


def add_key(path: Path, *words: str) -> str:
    added = run_keys(path, "add", *words)
    assert added.returncode == 0, added.stderr
    return added.stdout.strip()
