"""Ranks without a service: models computed by a group of processes, and by one, in comparison.

`python -m tests.worker.ranks.grouped` is rank 0. Its standard input has its `RankGroup`, then the
models; it writes an `Outcome` for each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from mlx_lm.models.cache import make_prompt_cache

from protocol.events import Started, TextDelta
from protocol.grammars import Grammar, JsonSchema
from protocol.messages import Cancel, Configure, ModelSource, Sampling, Step, Submit, TokenPrompt
from protocol.quantisation import KVBits
from protocol.ranks import RankGroup, Split, SplitSetting
from service.ranks.addresses import RankAddresses
from service.ranks.layout import local_layout
from tests.waiting import HANG_S
from tests.worker.driver import (
    compile_grammar,
    end_of,
    events_of,
    make_config_loader,
    make_configure,
    run_loop,
    tokens_of,
)
from worker.intake.prepared import prepare
from worker.intake.receiver import Work
from worker.models.pool import ModelPool
from worker.models.weight_loader import ONE_PROCESS, ModelParts
from worker.ranks.leader import Leader

# The answers are long enough for rows to leave at other steps than others.
ANSWER_TOKENS = 12
CACHE_BYTES = 1 << 20
SLICE_TOKENS = 32
# These are submitted at once, the others as answers begin.
AT_ONCE = 12
SCHEMA = '{"type": "object", "properties": {"a": {"type": "integer", "maximum": 99}}}'


@dataclass(frozen=True)
class Kind:
    """A kind of request; one that leaves is cancelled after its first token."""

    sampling: Sampling
    grammar: Grammar | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    leaves: bool = False


GREEDY = Sampling(seed=0, temperature=0.0)
KINDS = (
    Kind(GREEDY),
    Kind(Sampling(seed=0, temperature=0.9, top_p=0.8)),
    Kind(Sampling(seed=0, temperature=0.7, frequency_penalty=0.8, min_p=0.02)),
    Kind(GREEDY, grammar=JsonSchema(SCHEMA)),
    Kind(GREEDY, logprobs=2),
    Kind(GREEDY, leaves=True),
    Kind(Sampling(seed=0, temperature=0.5, repetition_penalty=1.2, top_k=20)),
    Kind(GREEDY, prompt_logprobs=1),
)


class Job(msgspec.Struct, frozen=True):
    """A model, and how it is to be computed."""

    path: str
    setting: SplitSetting = "auto"
    kv_bits: KVBits = 0
    speculation: bool = True
    requests: int = 32


class Outcome(msgspec.Struct, frozen=True):
    """How a model was split, and which of its answers differ from those of one process.

    `refused` is why it was not loaded, `layers` how many caches rank 0 has, `cached_tokens` those
    that the prompts of the second round reused, of both.
    """

    path: str
    split: Split | None = None
    layers: int = 0
    differing: list[int] = []
    answered: int = 0
    cached_tokens: tuple[int, int] = (0, 0)
    refused: str = ""


def compute(size: int, jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Compute these models by a group of so many processes, which ends with the iterator."""
    addresses = RankAddresses(local_layout(size, "ring"))
    # With more the ranks would wait for each other's threads.
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(size):
            module = "worker.ranks" if rank else __name__
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[] if rank else [addresses.listener],
            )
            processes.append(process)
            write_line(process, addresses.group_for(rank))
        write_line(processes[0], list(jobs))
        assert processes[0].stdout is not None
        for line in processes[0].stdout:
            yield msgspec.json.decode(line, type=Outcome)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
        addresses.close()


def write_line(process: subprocess.Popen[bytes], content: object) -> None:
    """Write a line to a process."""
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(content) + b"\n")
    process.stdin.flush()


# ---------------------------------------------------------------- rank 0


def run() -> None:
    """Compute each model by the group, then by this process alone."""
    group = msgspec.json.decode(sys.stdin.buffer.readline(), type=RankGroup)
    jobs = msgspec.json.decode(sys.stdin.buffer.readline(), type=list[Job])
    leader = Leader(
        group, HANG_S, lambda ranks, met: None, lambda rank, reason, silent: os._exit(1)
    )
    for job in jobs:
        outcome = compare(job, leader)
        sys.stdout.buffer.write(msgspec.json.encode(outcome) + b"\n")
        sys.stdout.buffer.flush()
    leader.close()


def compare(job: Job, leader: Leader) -> Outcome:
    """Compare the answers of all ranks with those of this process alone."""
    configure = configure_for(job)
    leader.prepare(configure)
    try:
        pool = load(configure, leader.parts)
    except Exception as error:
        return Outcome(job.path, refused=str(error))
    [model] = list(pool)
    layers, split = len(make_prompt_cache(model.engine.model)), model.info.split
    together = answer_twice(pool, model.info.id, job.requests)
    del pool, model
    leader.send_freed()
    alone = answer_twice(load(configure, ONE_PROCESS), Path(job.path).name, job.requests)
    return Outcome(
        job.path,
        split=split,
        layers=layers,
        differing=[n for n, tokens in alone.answers.items() if together.answers.get(n) != tokens],
        answered=len(alone.answers),
        cached_tokens=(together.cached_tokens, alone.cached_tokens),
    )


def configure_for(job: Job) -> Configure:
    """The configuration of a worker with this model."""
    source = ModelSource(
        Path(job.path).name,
        job.path,
        kv_bits=job.kv_bits,
        speculation="on" if job.speculation else "off",
    )
    configure = make_configure([source], prefill_step_tokens=SLICE_TOKENS)
    return msgspec.structs.replace(
        configure, prompt_cache_bytes=CACHE_BYTES, ranks_split=job.setting
    )


def load(configure: Configure, parts: ModelParts) -> ModelPool:
    """A pool with the model loaded."""
    pool = ModelPool(configure, make_config_loader(), parts=parts)
    pool.load_all()
    return pool


class Answers(msgspec.Struct):
    """The tokens of the answers that were not cancelled, and the cached tokens of their prompts."""

    answers: dict[int, tuple[list[int], str]] = {}
    cached_tokens: int = 0


def answer_twice(pool: ModelPool, model: str, count: int) -> Answers:
    """Two rounds of mixed requests; the second finds prompts of the first in the cache."""
    answers = Answers()
    for first in (0, count):
        add_answers(pool, make_submits(model, first, count), answers)
    return answers


def add_answers(pool: ModelPool, submits: list[Submit], answers: Answers) -> None:
    """Submit these requests, some as others begin to be answered, and add the answers."""
    left = {submit.id for submit in submits if leaves(submit.id)}
    later = iter(submits[AT_ONCE:])

    def after_step(step: Step) -> Iterator[Work]:
        for event in step.events:
            if isinstance(event, Started) and (submit := next(later, None)) is not None:
                yield compile_grammar(prepare(pool[submit.model].config, submit))
            if isinstance(event, TextDelta) and event.id in left:
                left.discard(event.id)
                yield Cancel([event.id])

    steps = run_loop(pool, submits[:AT_ONCE], max_running=8, after_step=after_step)
    for submit in submits:
        if not leaves(submit.id):
            reason = getattr(end_of(steps, submit.id), "reason", "")
            answers.answers[submit.id] = tokens_of(steps, submit.id), str(reason)
            started = [e for e in events_of(steps, submit.id) if isinstance(e, Started)]
            answers.cached_tokens += sum(event.cached_tokens for event in started)


def leaves(number: int) -> bool:
    """Whether this request is cancelled after its first token."""
    return KINDS[number % len(KINDS)].leaves


def make_submits(model: str, first: int, count: int) -> list[Submit]:
    """Requests of all kinds in turn; their prompts have beginnings in common."""
    return [make_submit(model, number) for number in range(first, first + count)]


def make_submit(model: str, number: int) -> Submit:
    """One request."""
    kind = KINDS[number % len(KINDS)]
    sampling = msgspec.structs.replace(kind.sampling, seed=number)
    return Submit(
        id=number,
        model=model,
        prompt=TokenPrompt(make_prompt(number)),
        sampling=sampling,
        max_tokens=200 if kind.leaves else ANSWER_TOKENS + number % 7,
        logprobs=kind.logprobs,
        prompt_logprobs=kind.prompt_logprobs,
        grammar=kind.grammar,
        # Prompts of one client wait for the answers of the other, on all ranks.
        client=f"client {number % 2}",
    )


def make_prompt(number: int) -> list[int]:
    """A prompt that begins as those of other requests do; a third of them repeat themselves."""
    shared = [(11 * index + number % 3) % 250 + 3 for index in range((9, 40, 75)[number % 3])]
    own = [(5 * index + number % 8) % 250 + 3 for index in range(3 + number % 8)]
    return [*shared, *own, *(own if number % 2 else [])]


if __name__ == "__main__":
    run()
