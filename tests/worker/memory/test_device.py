"""The device's description, and its setup: no compilation while serving, batch scheduling."""

from __future__ import annotations

import os
import subprocess
import sys

import mlx.core as mx
import pytest

from worker.memory.device import describe_device

PROBE = """
import mlx.core as mx
from worker.memory.device import prepare_device
prepare_device()
calls = []
f = mx.compile(lambda x: (calls.append(1), x * 2 + 1)[1])
for _ in range(3):
    mx.eval(f(mx.ones((2,))))
print(len(calls))
"""

THREADS = """
import os
import mlx.core as mx
from worker.memory.device import prepare_device
prepare_device()
mx.eval(mx.ones((2,)) + 1)
print({os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")})
"""


@pytest.mark.skipif(mx.metal.is_available(), reason="compilation stays on for Metal")
def test_no_function_is_compiled_on_the_cpu() -> None:
    # A compiled function is traced once; a function that is not compiled runs at every call.
    probe = [sys.executable, "-c", PROBE]
    ran = subprocess.run(probe, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "3"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
@pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="the CPU only")
def test_on_the_cpu_every_thread_runs_under_batch_scheduling() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", THREADS], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == str({os.SCHED_BATCH})


def test_the_device_has_a_name_and_memory() -> None:
    device = describe_device()
    assert device.name
    assert device.backend in ("CPU", "GPU", "Metal")
    assert device.memory_bytes > 1 << 30
