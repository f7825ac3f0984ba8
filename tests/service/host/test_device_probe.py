from __future__ import annotations

import os
import sys

import pytest

from protocol.messages import Configure, Ready
from service.host.device_probe import probe
from tests.waiting import HANG_S

pytestmark = pytest.mark.anyio

CONFIGURE = Configure(
    models=[],
    max_running=1,
    prefill_step_tokens=1,
    context_limit_tokens=0,
    memory_limit_bytes=0,
    cache_limit_bytes=0,
)


async def test_a_worker_without_models_reports_its_device_and_ends() -> None:
    result = await probe(CONFIGURE, os.environ)
    assert isinstance(result, Ready)
    assert result.device.memory_bytes > 0


@pytest.mark.parametrize(
    ("program", "wait_s", "reason"),
    [
        ("raise SystemExit(3)", HANG_S, "exit status 3"),
        ("import os; os.abort()", HANG_S, "exit status -6"),
        ("import sys; sys.exit('no\\x1b Metal')", HANG_S, "ended with: no\\x1b Metal"),
        ("import time; time.sleep(60)", 0.2, "was not ready after 0.2 seconds"),
    ],
)
async def test_a_worker_that_is_never_ready_gives_a_reason(
    program: str, wait_s: float, reason: str
) -> None:
    result = await probe(
        CONFIGURE, os.environ, command=[sys.executable, "-c", program], timeout_s=wait_s
    )
    assert isinstance(result, str)
    assert reason in result


async def test_a_program_that_does_not_exist_gives_a_reason() -> None:
    result = await probe(CONFIGURE, os.environ, command=["/nowhere/python"])
    assert isinstance(result, str)
    assert "no worker can be started" in result
