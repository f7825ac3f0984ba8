"""The longest step while long prompts are computed: for that long a stream waits.

On the CPU what other processes take meanwhile does not count.
"""

from __future__ import annotations

from worker.engine.sampler import make_row
from worker.engine.stopwatch import Stopwatch
from worker.selfcheck.samples import make_tokens
from worker.selfcheck.scored_rows import GREEDY
from worker.selftest.measurement import Section, within
from worker.selftest.subject import Subject

BOUND_S = 2.0
# figure -> the prompts and the tokens of each
PROMPTS = {"one_prompt_s": (1, 8192), "eight_prompts_s": (8, 2048)}


def measure(section: Section, subject: Subject) -> None:
    """Compute the prompts, or as much of them as there is time for."""
    for index, (name, (count, tokens)) in enumerate(PROMPTS.items()):
        if not section.left_s:
            section.skip(name, at=tokens)
            continue
        budget_s = section.left_s / (len(PROMPTS) - index)
        longest_s, computed = run_prompts(section, subject, count, tokens, budget_s)
        verdict = within(longest_s <= BOUND_S)
        note = "" if computed >= count * tokens else f"{computed} of {count * tokens} tokens"
        section.report(name, round(longest_s, 3), "s", at=tokens, verdict=verdict, note=note)
        section.report("computed_tokens", computed, at=tokens)


def run_prompts(
    section: Section, subject: Subject, count: int, tokens: int, budget_s: float
) -> tuple[float, int]:
    """The seconds of the longest step, and the tokens that were computed in the time."""
    engine = subject.make_engine()
    end = section.clock() + budget_s
    for number in range(count):
        prompt = make_tokens(number, tokens, subject.vocabulary_size)
        engine.insert(number, prompt, 1, make_row(GREEDY))
    longest_s = 0.0
    computed = dict.fromkeys(range(count), 0)
    while len(engine) and (not longest_s or section.clock() < end):
        stopwatch = Stopwatch()
        ended = engine.step()
        longest_s = max(longest_s, stopwatch.read_s())
        computed.update((id, done) for id, done, _ in engine.progress)
        computed.update((token.id, tokens) for token in ended)
    engine.remove(range(count))
    return longest_s, sum(computed.values())
