"""Node's `openai` package against the real service, where Node has it (see NODE_PATH)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.daemon import running

CLIENT = Path(__file__).with_name("client.cjs")


def test_node_streams_an_answer_and_gets_a_call() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node here")
    found = subprocess.run(
        [node, "-e", "require.resolve('openai')"],
        cwd=CLIENT.parent,
        capture_output=True,
        timeout=60,
        check=False,
    )
    if found.returncode != 0:
        pytest.skip("Node has no `openai` package here")
    with running() as demo:
        asked = subprocess.run(
            [node, CLIENT, f"{demo.url}/v1"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert asked.returncode == 0, asked.stderr
    told = json.loads(asked.stdout)
    assert told["streamed"]
    assert told["streamed"] == told["plain"]
    assert told["reason"] == "tool_calls"
    [[name, arguments]] = told["calls"]
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Oslo"})
