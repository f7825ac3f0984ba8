from __future__ import annotations

import os
import sys

import pytest

from protocol.messages import Configure, Ready
from service.host.device_probe import probe

pytestmark = pytest.mark.anyio

NOTHING = Configure(
    models=[],
    max_running=1,
    prefill_step_tokens=1,
    context_limit_tokens=0,
    memory_limit_bytes=0,
    cache_limit_bytes=0,
)


async def test_a_worker_without_models_tells_its_device_and_ends() -> None:
    answer = await probe(NOTHING, os.environ)
    assert isinstance(answer, Ready)
    assert answer.device.memory_bytes > 0


@pytest.mark.parametrize(
    ("program", "wait_s", "reason"),
    [
        ("raise SystemExit(3)", 30.0, "exit status 3"),
        ("import os; os.abort()", 30.0, "exit status -6"),
        ("import time; time.sleep(60)", 0.2, "said nothing for 0.2 seconds"),
    ],
)
async def test_a_worker_that_cannot_is_told_in_words(
    program: str, wait_s: float, reason: str
) -> None:
    answer = await probe(
        NOTHING, os.environ, command=[sys.executable, "-c", program], timeout_s=wait_s
    )
    assert isinstance(answer, str)
    assert reason in answer


async def test_a_program_that_is_not_there_is_told_in_words() -> None:
    answer = await probe(NOTHING, os.environ, command=["/nowhere/python"])
    assert isinstance(answer, str)
    assert "no worker can be started" in answer
