"""`python -m tests.load.bare MODEL MAX_RUNNING [alike]`: the limit, mlx-lm's batch loop, no HTTP.

It reads jobs from its input, a line of JSON each, and writes their timings: the same chats as the
servers get, tokenised before the time is taken. With `alike` it is scheduled as mlxd's worker is.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.load.servers import started
from tests.load.timings import Timing
from worker.memory.device import schedule_as_batch

ALIKE = "alike"


class Job(msgspec.Struct):
    """Chat requests, `concurrency` at once; the first `warm_up` do not count."""

    bodies: list[dict[str, Any]]
    concurrency: int
    warm_up: int


class CommandResult(msgspec.Struct):
    """Their timings, the total time, and the processor time of the loop."""

    timings: list[Timing]
    elapsed_s: float
    processor_s: float


@contextmanager
def bare_loop(
    model: Path, max_running: int, *, alike: bool = False
) -> Iterator[Callable[[Job], CommandResult]]:
    """A function that runs a job in a process of its own, which ends with the block.

    One that is `alike` has the preloads and the scheduling class of mlxd's worker.
    """
    words = ["-m", "tests.load.bare", str(model), str(max_running), *([ALIKE] if alike else [])]
    with started(words, allocator="auto" if alike else "off") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        jobs, results = process.stdin, process.stdout

        def run(job: Job) -> CommandResult:
            jobs.write(msgspec.json.encode(job) + b"\n")
            jobs.flush()
            return msgspec.json.decode(results.readline(), type=CommandResult)

        yield run


class EngineCore:
    """A closed loop over mlx-lm's `BatchGenerator`."""

    def __init__(self, model: Path, max_running: int) -> None:
        from mlx_lm import load
        from mlx_lm.generate import BatchGenerator

        self._model, self._tokenizer = load(str(model))
        self._generator = BatchGenerator(
            self._model,
            stop_tokens=[[token] for token in self._tokenizer.eos_token_ids],
            completion_batch_size=max_running,
        )

    def run(self, job: Job) -> CommandResult:
        """All requests of the job, after the warm-up."""
        prompts = [self._tokenize(body) for body in job.bodies]
        limits = [body["max_tokens"] for body in job.bodies]
        pairs = list(zip(prompts, limits, strict=True))
        self._drain(pairs[: job.warm_up], job.concurrency)
        began, processor_began = time.perf_counter(), time.process_time()
        timings = self._drain(pairs[job.warm_up :], job.concurrency)
        processor_s = time.process_time() - processor_began
        return CommandResult(timings, time.perf_counter() - began, processor_s)

    def _tokenize(self, body: dict[str, Any]) -> list[int]:
        tokens: list[int] = self._tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True
        )
        return tokens

    def _drain(self, waiting: Sequence[tuple[list[int], int]], concurrency: int) -> list[Timing]:
        left = deque(waiting)
        running: dict[int, Timing] = {}
        finished: list[Timing] = []
        while left or running:
            while left and len(running) < concurrency:
                prompt, limit = left.popleft()
                [uid] = self._generator.insert([prompt], max_tokens=[limit])
                running[uid] = Timing(time.perf_counter(), prompt_tokens=len(prompt))
            _, responses = self._generator.next()
            now = time.perf_counter()
            for response in responses:
                timing = running[response.uid]
                timing.text_at.append(now)
                timing.tokens += 1
                if response.finish_reason is not None:
                    timing.ended_at = now
                    finished.append(running.pop(response.uid))
        return finished


def main(model: str, max_running: str, setup: str = "") -> None:
    """Answer each line of the input."""
    if setup == ALIKE:
        schedule_as_batch()
    loop = EngineCore(Path(model), int(max_running))
    for line in sys.stdin.buffer:
        done = loop.run(msgspec.json.decode(line, type=Job))
        sys.stdout.buffer.write(msgspec.json.encode(done) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
