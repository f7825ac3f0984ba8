"""What it costs when a batch changes: a leave, a join, a growth of its KV cache, a clear."""

from __future__ import annotations

import statistics

import mlx.core as mx

from worker.engine.engine import Engine
from worker.engine.sampler import make_row
from worker.selfcheck.samples import make_tokens
from worker.selfcheck.scored_rows import GREEDY
from worker.selftest.measurement import MS_PER_S, Section
from worker.selftest.subject import Subject

ROWS = 8
# mlx-lm's caches grow by 256 tokens: that is after 16 steps.
PROMPT_TOKENS, GROWTH_STEPS = 240, (12, 20)
STEPS = 32
JOINING_ID = ROWS
MANY_TOKENS = 1 << 16
ROUND_TRIPS_S = 0.05
LEAVES = 5


def measure(section: Section, subject: Subject) -> None:
    """The figures, in the order in which they are reported."""
    measure_round_trip(section)
    if not section.left_s:
        for name in ("step_ms", "growth_ms", "clear_ms", "leave_ms", "join_ms"):
            section.skip(name)
        return
    engine = start_rows(subject, ROWS)
    times = time_steps(section, engine)
    step_ms = statistics.median(times)
    section.report("step_ms", round(step_ms, 3), "ms", at=ROWS)
    if len(times) == STEPS:
        growth = max(times[slice(*GROWTH_STEPS)])
        section.report("growth_ms", round(growth - step_ms, 3), "ms", at=ROWS)
    else:
        section.skip("growth_ms", at=ROWS)
    measure_clear(section, engine)
    section.report("leave_ms", round(time_leaves(section, engine), 3), "ms", at=ROWS)
    section.report("join_ms", round(time_join(section, subject, engine), 3), "ms", at=ROWS)
    engine.remove(range(ROWS + 1))
    alone_ms = time_join(section, subject, subject.make_engine())
    section.report("join_alone_ms", round(alone_ms, 3), "ms", at=1)


def measure_round_trip(section: Section) -> None:
    """The time to compute one number and to read it."""
    one = mx.array(1.0)
    seconds = section.time_s(lambda: (one + 1).item(), ROUND_TRIPS_S)
    section.report("round_trip_ms", round(seconds * MS_PER_S, 4), "ms")


def start_rows(subject: Subject, count: int) -> Engine:
    """An engine in which this many rows of the same length decode."""
    engine = subject.make_engine()
    for id in range(count):
        insert(engine, subject, id)
    started: set[int] = set()
    while len(started) < count:
        started.update(token.id for token in engine.step())
    return engine


def insert(engine: Engine, subject: Subject, id: int) -> None:
    """Insert a row that does not end."""
    prompt = make_tokens(id, PROMPT_TOKENS, subject.vocabulary_size)
    engine.insert(id, prompt, MANY_TOKENS, make_row(GREEDY))


def time_steps(section: Section, engine: Engine) -> list[float]:
    """The milliseconds of some steps: at least one, and `STEPS` if there is time."""
    end = section.clock() + section.left_s / 2
    times: list[float] = []
    while not times or (len(times) < STEPS and section.clock() < end):
        times.append(time_step(section, engine))
    return times


def time_step(section: Section, engine: Engine) -> float:
    """The milliseconds of one step."""
    started = section.clock()
    engine.step()
    return (section.clock() - started) * MS_PER_S


def measure_clear(section: Section, engine: Engine) -> None:
    """The time of a clear while the next step is in flight, and of the step after it."""
    started = section.clock()
    mx.clear_cache()
    clear_ms = (section.clock() - started) * MS_PER_S
    section.report("clear_ms", round(clear_ms, 3), "ms")
    section.report("step_after_clear_ms", round(time_step(section, engine), 3), "ms", at=ROWS)


def time_leaves(section: Section, engine: Engine) -> float:
    """The milliseconds that the step after a leave takes more than the next one."""
    more = []
    for id in range(LEAVES):
        engine.remove([id])
        more.append(time_step(section, engine) - time_step(section, engine))
    return statistics.median(more)


def time_join(section: Section, subject: Subject, engine: Engine) -> float:
    """The milliseconds from the insert of a row to its first token."""
    started = section.clock()
    insert(engine, subject, JOINING_ID)
    while all(token.id != JOINING_ID for token in engine.step()):
        pass
    return (section.clock() - started) * MS_PER_S
