"""What it costs when a batch changes: a leave, a join, a growth of its KV cache, a clear."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import mlx.core as mx

from worker.engine.engine import Engine
from worker.engine.sampler import make_row
from worker.selfcheck.samples import make_tokens
from worker.selfcheck.scored_rows import GREEDY
from worker.selftest.measurement import MS_PER_S, Section, TimeIsUp
from worker.selftest.subject import Subject

ROWS = 8
# mlx-lm's caches grow by 256 tokens: that is after 16 steps.
PROMPT_TOKENS, GROWTH_STEPS = 240, (12, 20)
SETTLED_STEPS = 8
JOINING_ID = ROWS
MANY_TOKENS = 1 << 16
NAMES = (
    "step_ms",
    "growth_ms",
    "clear_ms",
    "step_after_clear_ms",
    "leave_ms",
    "join_ms",
    "join_alone_ms",
)
ROUND_TRIPS_S = 0.05
LEAVES = 5


def measure(section: Section, subject: Subject) -> None:
    """The figures, in the order in which they are reported."""
    measure_round_trip(section)
    left = list(NAMES)
    try:
        for name, value_ms, rows in measure_changes(section, subject):
            section.report(name, round(value_ms, 3), "ms", at=rows)
            left.remove(name)
    except TimeIsUp:
        for name in left:
            section.skip(name, at=ROWS)


def measure_changes(section: Section, subject: Subject) -> Iterator[tuple[str, float, int]]:
    """Each figure's name, its milliseconds and its rows.

    Raises:
        TimeIsUp: before the last of them.
    """
    engine = start_rows(section, subject, ROWS)
    times = [time_step(section, engine) for _ in range(SETTLED_STEPS)]
    yield "step_ms", statistics.median(times), ROWS
    times += [time_step(section, engine) for _ in range(GROWTH_STEPS[1] - len(times))]
    yield "growth_ms", max(times[slice(*GROWTH_STEPS)]) - statistics.median(times), ROWS
    yield "clear_ms", time_clear(section), ROWS
    yield "step_after_clear_ms", time_step(section, engine), ROWS
    yield "leave_ms", time_leaves(section, engine), ROWS
    yield "join_ms", time_join(section, subject, engine), ROWS
    engine.remove(range(ROWS + 1))
    yield "join_alone_ms", time_join(section, subject, subject.make_engine()), 1


def measure_round_trip(section: Section) -> None:
    """The time to compute one number and to read it."""
    one = mx.array(1.0)
    seconds = section.time_s(lambda: (one + 1).item(), ROUND_TRIPS_S)
    section.report("round_trip_ms", round(seconds * MS_PER_S, 4), "ms")


def start_rows(section: Section, subject: Subject, count: int) -> Engine:
    """An engine in which this many rows of the same length decode.

    Raises:
        TimeIsUp: before they do.
    """
    engine = subject.make_engine()
    for id in range(count):
        insert(engine, subject, id)
    started: set[int] = set()
    while len(started) < count:
        section.require_time()
        started.update(token.id for token in engine.step())
    return engine


def insert(engine: Engine, subject: Subject, id: int) -> None:
    """Insert a row that does not end."""
    prompt = make_tokens(id, PROMPT_TOKENS, subject.vocabulary_size)
    engine.insert(id, prompt, MANY_TOKENS, make_row(GREEDY))


def time_step(section: Section, engine: Engine) -> float:
    """The milliseconds of one step.

    Raises:
        TimeIsUp: no time is left.
    """
    section.require_time()
    started = section.clock()
    engine.step()
    return (section.clock() - started) * MS_PER_S


def time_clear(section: Section) -> float:
    """The milliseconds of a clear while the next step is in flight."""
    started = section.clock()
    mx.clear_cache()
    return (section.clock() - started) * MS_PER_S


def time_leaves(section: Section, engine: Engine) -> float:
    """The milliseconds that the step after a leave takes more than the next one."""
    more = []
    for id in range(LEAVES):
        engine.remove([id])
        more.append(time_step(section, engine) - time_step(section, engine))
    return statistics.median(more)


def time_join(section: Section, subject: Subject, engine: Engine) -> float:
    """The milliseconds from the insert of a row to its first token.

    Raises:
        TimeIsUp: before that.
    """
    started = section.clock()
    insert(engine, subject, JOINING_ID)
    while all(token.id != JOINING_ID for token in engine.step()):
        section.require_time()
    return (section.clock() - started) * MS_PER_S
