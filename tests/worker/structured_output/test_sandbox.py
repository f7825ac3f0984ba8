"""A trial of a grammar ends at its limit of memory, also where the system enforces none."""

from __future__ import annotations

import subprocess
import sys

import pytest

# The system's limits are not set, as if they did not bind. The grammar's compilation needs
# `sys.argv[1]` MiB, at a rate that the busiest machine can watch.
SCRIPT = """
import resource, sys, time
import msgspec
from protocol.grammars import JsonObject
from worker.structured_output import sandbox
from worker.structured_output.vocabulary import Vocabulary

def compile_and_use_memory(encoded, vocabulary):
    blocks = []
    for _ in range(int(sys.argv[1])):
        blocks.append(b"x" * 2**20)
        time.sleep(0.001)
    return sandbox.Passed("", len(blocks))

sandbox.set_soft_limit = lambda kind, limit: None
sandbox.try_grammar = compile_and_use_memory
sandbox.MEMORY_LIMIT_BYTES = 100 * 2**20
trial = sandbox.Trial(msgspec.Raw(msgspec.msgpack.encode(JsonObject())), 60.0)
print(sandbox.RESULT_DECODER.decode(sandbox.run_trial(trial, None)))
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def run_trial(mebibytes: int) -> tuple[str, int]:
    """The result, and the peak memory of the trial in KiB."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(mebibytes)], capture_output=True, text=True, check=True
    )
    result, peak = ran.stdout.splitlines()
    return result, int(peak)


def test_a_trial_within_its_memory_passes() -> None:
    result, _ = run_trial(10)
    assert result == "Passed(text='', size_bytes=10)"


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of the peak is that of Linux")
def test_a_trial_that_needs_too_much_memory_is_killed_without_the_systems_limit() -> None:
    result, peak_kib = run_trial(4000)
    assert "it is too large, or nested too deeply, to compile" in result
    assert "timed_out=False" in result
    assert peak_kib < 2000 * 1024
