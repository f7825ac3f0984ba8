"""Clients with environments of their own, made by `make clients`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon

SCRIPTS = Path(__file__).with_name("clients")
ENVIRONMENTS = Path(__file__).parents[2] / ".venv"
NODE_MODULES = ENVIRONMENTS / "node/node_modules"
TIMEOUT_S = 120


def ask(program: Path | str, needed: Path, script: str, daemon: Daemon, **variables: str) -> Any:
    """What a client's script prints. Without the client the test is skipped, or as .ci/all says."""
    if not needed.exists():
        reason = f"{needed.name} is not there: make clients"
        if os.environ.get("CLIENTS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return told([program, SCRIPTS / script, f"{daemon.url}/v1"], {**os.environ, **variables})


def told(command: Sequence[Path | str], environ: Mapping[str, str]) -> Any:
    asked = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout)


def test_instructor_gets_structured_output_and_a_call(demo: Daemon) -> None:
    python = ENVIRONMENTS / "instructor/bin/python"
    answer = ask(python, python, "instructed.py", demo)
    assert answer["mood"] in ("good", "bad")
    assert answer["city"] == "Oslo"


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no Node here")
def test_node_streams_an_answer_and_gets_a_call(demo: Daemon) -> None:
    answer = ask("node", NODE_MODULES / "openai", "node.cjs", demo, NODE_PATH=str(NODE_MODULES))
    assert answer["streamed"]
    assert answer["streamed"] == answer["plain"]
    assert answer["reason"] == "tool_calls"
    [[name, arguments]] = answer["calls"]
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Oslo"})
