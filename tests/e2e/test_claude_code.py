"""Claude Code, headless: a tool that really runs, and a second turn whose prompt is cached."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.clients import scenario
from tests.e2e.clients.catalogue import NPM
from tests.e2e.daemon import Daemon, running
from tests.models import staged
from tests.models.staged import Staged

PROGRAM = "node_modules/.bin/claude"
TIMEOUT_S = 500
# Its prompt, with 24 tools, is 70,000 tokens of a tokenizer that knows few words.
CONTEXT_TOKENS = 2**18
CALL = {"name": "Bash", "arguments": {"command": "printf staged > made.txt"}}
FINAL = "The file is there."
TURN_END, TURN = "<|im_end|>", "<|im_start|>"
AFTER_TOOLS, END = "<after_tools>", "<|end|>"
# The answer ends after the call; with a result the prompt ends so that the rest follows.
AGENT = Staged(
    f"I make it.\n<tool_call>\n{json.dumps(CALL)}\n</tool_call>{TURN_END}{AFTER_TOOLS}{FINAL}",
    template="{# <tool_call> tool_call.name #}{{ tools | tojson }}{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{{ m.tool_calls | tojson if m.tool_calls }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    '{{ "<after_tools>" if messages | selectattr("role", "equalto", "tool") | list }}{% endif %}',
    special=(staged.PAD, TURN, TURN_END, END),
    added=("<tool_call>", "</tool_call>", AFTER_TOOLS),
    end=END,
    config={"max_position_embeddings": CONTEXT_TOKENS},
)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Daemon]:
    folder = staged.make(AGENT, tmp_path / "agent")
    tokens = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    ends = [token["id"] for token in tokens if token["content"] in (TURN_END, END)]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    with running(folder) as daemon:
        yield daemon


def find_program() -> Path:
    """Claude Code as `make clients` installs it; without it the test is skipped, but in CI."""
    environments = Path(os.environ.get("CLIENTS_FOLDER", scenario.DEFAULT_ENVIRONMENTS))
    program = environments / NPM / PROGRAM
    if not program.exists():
        reason = "Claude Code is not there: make clients"
        if "CI" in os.environ or os.environ.get("CLIENTS") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return program


def run(program: Path, url: str, home: Path) -> list[dict[str, Any]]:
    """The events that it prints, in an empty home folder."""
    home.mkdir()
    words = ["-p", "Make the file.", "--model", "agent", "--allowedTools", "Bash"]
    ended = subprocess.run(
        [program, *words, "--output-format", "stream-json", "--verbose"],
        cwd=home,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ANTHROPIC_API_KEY": "none",
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": "agent",
            "API_TIMEOUT_MS": str(TIMEOUT_S * 1000),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_TELEMETRY": "1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


@pytest.mark.long
def test_a_tool_makes_a_file_and_the_second_turn_reads_the_cache(
    agent: Daemon, tmp_path: Path
) -> None:
    program = find_program()
    home = tmp_path / "home"
    events = run(program, agent.url, home)
    assert (home / "made.txt").read_text() == "staged"
    assert events[-1]["result"] == FINAL
    answers = {
        event["message"]["id"]: event["message"] for event in events if event["type"] == "assistant"
    }
    first, second = (message["usage"] for message in answers.values())
    assert first["input_tokens"] > 1000
    # But for the end of its prompt, which the answer of the first turn replaces.
    assert second["cache_read_input_tokens"] > 0.99 * first["input_tokens"]
