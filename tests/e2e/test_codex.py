"""Codex, headless, against a staged model: a tool that really runs, and a recorded request."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.clients import scenario
from tests.e2e.clients.catalogue import NODE, NPM
from tests.e2e.daemon import Daemon, running
from tests.models import staged
from tests.models.staged import CHATML_THEN, Staged

RECORDING = Path(__file__).parent / "recordings/codex.json"
PROGRAM = "node_modules/@openai/codex/bin/codex.js"
CALL = {"name": "exec_command", "arguments": {"cmd": "echo written >> made.txt"}}
# Its instructions and tools are long.
CONTEXT_TOKENS = 131_072
MODEL = Staged(
    f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>",
    template=CHATML_THEN,
    added=("<tool_call>", "</tool_call>"),
    then="The file is there now.",
    config={"max_position_embeddings": CONTEXT_TOKENS},
)
CONFIG = """
model = "codexer"
model_provider = "mlxd"
approval_policy = "never"
sandbox_mode = "danger-full-access"
[model_providers.mlxd]
name = "mlxd"
base_url = "{url}/v1"
wire_api = "responses"
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A service of a model that writes a file, and says so."""
    folder = tmp_path_factory.mktemp("staged")
    with running(staged.make(MODEL, folder / "codexer")) as daemon:
        yield daemon


def codex(service: Daemon, home: Path, *words: str) -> list[str]:
    """The types and texts of what it reports, in an empty home folder."""
    environments = Path(os.environ.get("CLIENTS_FOLDER", scenario.DEFAULT_ENVIRONMENTS))
    program = environments / NPM / PROGRAM
    if not program.exists():
        if "CI" in os.environ or os.environ.get("CLIENTS") == "required":
            pytest.fail("Codex is not there: make clients")
        pytest.skip("Codex is not there: make clients")
    (home / ".codex").mkdir(exist_ok=True)
    (home / ".codex/config.toml").write_text(CONFIG.format(url=service.url))
    flags = ["exec", "--skip-git-repo-check", "--json"]
    ended = subprocess.run(
        [environments / NODE / "bin/node", program, *flags, *words],
        cwd=home,
        env=scenario.environ(environments, str(home)),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=scenario.TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    events = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    return [event["item"].get("text", "") for event in events if event["type"] == "item.completed"]


@pytest.mark.long
def test_codex_runs_a_tool_in_two_turns(service: Daemon, tmp_path: Path) -> None:
    said = codex(service, tmp_path, "Write the file")
    assert said[-1] == MODEL.then
    assert (tmp_path / "made.txt").read_text() == "written\n"
    said = codex(service, tmp_path, "resume", "--last", "And again")
    assert said[-1] == MODEL.then
    assert (tmp_path / "made.txt").read_text() == "written\n" * 2


def test_a_recorded_request_of_codex_is_taken(service: Daemon) -> None:
    recorded = json.loads(RECORDING.read_text())
    reply = plain_http.post(f"{service.url}/v1/responses", json=recorded)
    assert reply.status_code == httpx.codes.OK, reply.text
    assert reply.headers["x-mlxd-left-out"] == "tools[8]"
    assert "x-mlxd-ignored" not in reply.headers
    last = json.loads(reply.text.strip().rpartition("data: ")[2])
    assert last["type"] == "response.completed"
    [call] = last["response"]["output"]
    assert (call["type"], call["name"]) == ("function_call", "exec_command")
    assert last["response"]["store"] is False
