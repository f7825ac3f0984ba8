"""A conversation computes only its new turns; with cache files also after a restart."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from openai import OpenAI

from tests.e2e.daemon import running

SYSTEM = {"role": "system", "content": "Answer as if you were a lighthouse keeper. " * 12}
TURNS = 10


def ask(client: OpenAI, messages: list[Any]) -> Any:
    return client.chat.completions.create(
        model="default", messages=messages, max_tokens=24, temperature=0
    )


def cached_tokens(completion: Any) -> int:
    held: int = completion.usage.prompt_tokens_details.cached_tokens
    return held


def test_each_turn_of_a_chat_prefills_what_is_new(client: OpenAI) -> None:
    messages: list[Any] = [SYSTEM, {"role": "user", "content": "Hello! Turn 0."}]
    before = 0
    for turn in range(TURNS):
        completion = ask(client, messages)
        assert cached_tokens(completion) >= before
        assert turn == 0 or completion.usage.prompt_tokens - cached_tokens(completion) < 60
        # The answer is cached too, as far as its text comes back as the same tokens.
        before = completion.usage.prompt_tokens - 1
        messages.append({"role": "assistant", "content": completion.choices[0].message.content})
        messages.append({"role": "user", "content": f"And now? Turn {turn + 1}."})


def open_client(url: str) -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=3)


def test_a_restart_and_a_crash_keep_what_is_on_disk(tmp_path: Path) -> None:
    flags = ["--prompt-cache-dir", str(tmp_path / "prompts")]
    messages = [SYSTEM, {"role": "user", "content": "What is the capital of France?"}]
    with running(flags=flags) as daemon, open_client(daemon.url) as client:
        first = ask(client, messages)
        assert cached_tokens(first) == 0
        # Once the same prompt came back from memory, its spans are on their way to the disk.
        assert cached_tokens(ask(client, messages)) == first.usage.prompt_tokens - 1
    with running(flags=flags) as daemon, open_client(daemon.url) as client:
        warm = ask(client, messages)
        assert cached_tokens(warm) == first.usage.prompt_tokens - 1
        assert warm.choices[0].message.content == first.choices[0].message.content
        os.kill(daemon.health()["worker"]["pid"], signal.SIGKILL)
        daemon.wait_until("worker.restarts", be=1)
        daemon.wait_until("status", be="healthy")
        assert cached_tokens(ask(client, messages)) == first.usage.prompt_tokens - 1


def test_a_folder_that_cannot_be_used_is_one_clear_line_at_start(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with running(flags=["--prompt-cache-dir", str(tmp_path / "taken")], wait=False) as daemon:
        assert daemon.wait() == 1
    assert "prompt_cache_dir" in daemon.output


def test_a_subfolder_that_others_can_open_is_one_clear_line_at_start(tmp_path: Path) -> None:
    (tmp_path / "mlxd-prompt-cache").mkdir(mode=0o755)
    with running(flags=["--prompt-cache-dir", str(tmp_path)], wait=False) as daemon:
        assert daemon.wait() == 1
    assert "has the permissions 0755, not 0700" in daemon.output
    assert "Traceback" not in daemon.output
