"""The queue of a range of sizes: the smallest first, equals in order, and nothing cancelled."""

from __future__ import annotations

import queue
import threading
from typing import cast

from protocol.messages import Sampling, Submit, TextPrompt
from worker.intake.encoded_submit import encode
from worker.intake.preparation_queue import EQUAL_BYTES, PreparationJob, PreparationQueue
from worker.models.model_config import ModelConfig

TIMEOUT_S = 60.0


class Recorder:
    """Records the ids of the jobs; the first one waits for `go`."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()
        self.ids: queue.SimpleQueue[int] = queue.SimpleQueue()

    def prepare(self, job: PreparationJob) -> None:
        self.begun.set()
        assert self.go.wait(TIMEOUT_S)
        self.ids.put(job.submit.id)


def job(id: int, work_bytes: int) -> PreparationJob:
    submit = encode(Submit(id, "m", TextPrompt("x"), Sampling(0)))
    # The queue does not look at the configuration.
    return PreparationJob(submit, work_bytes, 0.0, cast("ModelConfig", None))


def test_the_smallest_is_first_and_small_ones_keep_their_order() -> None:
    recorder = Recorder()
    waiting = PreparationQueue("test", recorder.prepare)
    waiting.put(job(1, 9 * EQUAL_BYTES))
    assert recorder.begun.wait(TIMEOUT_S)
    for id, work_bytes in ((2, 8 * EQUAL_BYTES), (3, 20), (4, 10), (5, 2 * EQUAL_BYTES), (6, 1)):
        waiting.put(job(id, work_bytes))
    assert [each.submit.id for each in waiting.remove(lambda j: j.submit.id == 4)] == [4]
    recorder.go.set()
    assert [recorder.ids.get(timeout=TIMEOUT_S) for _ in range(5)] == [1, 3, 6, 5, 2]
    waiting.close()


def test_an_idle_queue_says_so_and_works_again() -> None:
    recorder = Recorder()
    recorder.go.set()
    idle: queue.SimpleQueue[None] = queue.SimpleQueue()
    waiting = PreparationQueue(
        "test", recorder.prepare, idle_s=0.001, on_idle=lambda: idle.put(None)
    )
    for id in (1, 2):
        waiting.put(job(id, 1))
        assert recorder.ids.get(timeout=TIMEOUT_S) == id
        idle.get(timeout=TIMEOUT_S)
    waiting.close()
    idle.get(timeout=TIMEOUT_S)
