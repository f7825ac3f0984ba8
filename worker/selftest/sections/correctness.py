"""Whether answers are the expected ones, however their rows are batched, cached and resumed.

Those of the built-in model were computed in float32 on a CPU. Of another model the expected
answers are those that each row gets alone, here; only greedy ones are compared then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten

from protocol.selftest import Verdict
from worker.cache.prefix_cache import PrefixCache
from worker.engine.engine import Engine, Token
from worker.engine.sampler import make_row
from worker.selfcheck.samples import make_tokens
from worker.selfcheck.scored_rows import GREEDY
from worker.selftest.answers import (
    NEAR_TIE_GAP,
    NEAR_TIE_GAP_16,
    Answer,
    Difference,
    first_difference,
    make_answer_row,
    read_stored,
)
from worker.selftest.measurement import Section
from worker.selftest.subject import Subject

BATCHES = (2, 4, 8, 16, 32)
LONG_TOKENS = 512
RESUMED_AT = 11
CACHE_BYTES = 1 << 28
GIVEN_TOKENS, GIVEN_CANDIDATES = 16, 20
BEGINNINGS = (
    "The capital of France is",
    "A fox and a bear met in the forest. The fox said:",
    "To sort a list of numbers, first",
    "On the first day of the year",
)


class Try(NamedTuple):
    """A row that should give this answer, from its token `start` on: those before are resumed."""

    answer: Answer
    start: int = 0


class Run(NamedTuple):
    """What rows have drawn. It is not `complete` where the time was up."""

    tokens: list[list[int]]
    cached_tokens: int
    complete: bool


def check(section: Section, subject: Subject) -> None:
    """Run the answers in every way, and compare."""
    answers = read_stored() if subject.is_built_in else measure_alone(section, subject)
    for name, at, run in ways(Trial(section, subject), answers):
        if not section.left_s:
            section.skip(name, at=at)
            continue
        tries, result = run()
        if not result.complete:
            section.skip(name, at=at)
            continue
        differences = [
            first_difference(one.answer, tokens, one.start)
            for one, tokens in zip(tries, result.tokens, strict=True)
        ]
        verdict, note = judge(differences, bound_of(subject))
        equal = differences.count(None)
        section.report(name, equal, "rows", at=at, verdict=verdict, note=note)


def ways(
    trial: Trial, answers: list[Answer]
) -> Iterator[tuple[str, int | None, Callable[[], tuple[list[Try], Run]]]]:
    """The ways in which answers are made: the figure, its rows, and what runs them."""
    greedy = [Try(answer) for answer in answers if answer.kind == "greedy"]
    resumed = [Try(answer, RESUMED_AT) for answer in answers]
    yield "resume", len(resumed), lambda: trial.run_batch(resumed)
    yield "padding", len(greedy) + 1, lambda: trial.run_padded(greedy)
    yield "prefix", len(greedy), lambda: trial.run_cached(greedy)
    for kind in ("seeded", "penalised", "masked"):
        if tries := [Try(answer) for answer in answers if answer.kind == kind]:
            yield kind, len(tries), lambda tries=tries: trial.run_batch(tries)  # type: ignore[misc]
    for rows in BATCHES:
        tries = list(islice(cycle(greedy), rows))
        yield "batch", rows, lambda tries=tries: trial.run_batch(tries)  # type: ignore[misc]
    yield "alone", 1, lambda: trial.run_alone(greedy)


class Trial:
    """Runs rows of one model within a section's time."""

    def __init__(self, section: Section, subject: Subject) -> None:
        self._section = section
        self._subject = subject

    def run_alone(self, tries: list[Try]) -> tuple[list[Try], Run]:
        """One row after the other."""
        runs = [self.run(self._subject.make_engine(), [one]) for one in tries]
        return tries, Run([run.tokens[0] for run in runs], 0, all(run.complete for run in runs))

    def run_batch(self, tries: list[Try]) -> tuple[list[Try], Run]:
        """All rows at once; those with the same prompt share its prefill."""
        return tries, self.run(self._subject.make_engine(), tries)

    def run_cached(self, tries: list[Try]) -> tuple[list[Try], Run]:
        """All rows twice: the second time their prompts are in the prompt cache."""
        cache = PrefixCache(CACHE_BYTES)
        engine = self._subject.make_engine(prompt_cache=cache)
        self.run(engine, tries)
        run = self.run(engine, tries)
        if run.complete and engine.rules.reuses_prefixes and not run.cached_tokens:
            raise RuntimeError("nothing was read from the prompt cache")
        return tries, run

    def run_padded(self, tries: list[Try]) -> tuple[list[Try], Run]:
        """All rows beside one with a much longer prompt."""
        engine = self._subject.make_engine()
        prompt = make_tokens(0, LONG_TOKENS, self._subject.vocabulary_size)
        longest = max(len(one.answer.tokens) for one in tries)
        engine.insert(len(tries), prompt, longest, make_row(GREEDY))
        return tries, self.run(engine, tries)

    def run(self, engine: Engine, tries: Sequence[Try]) -> Run:
        """Insert the rows, and step until they have ended or the time is up."""
        cached = sum(self._insert(engine, id, one) for id, one in enumerate(tries))
        tokens: list[list[int]] = [[] for _ in tries]
        while len(engine) and self._section.left_s:
            for token in engine.step():
                if token.id < len(tries):
                    tokens[token.id].append(token.token)
        return Run(tokens, cached, not len(engine))

    def _insert(self, engine: Engine, id: int, one: Try) -> int:
        answer, start = one
        resume = answer.tokens[:start]
        row = make_answer_row(
            answer.kind, self._subject.vocabulary_size, prompt=answer.prompt, resume=resume
        )
        return engine.insert(id, answer.prompt + resume, len(answer.tokens) - start, row)


def judge(differences: Sequence[Difference | None], bound: float) -> tuple[Verdict, str]:
    """The verdict on some rows, and a note on those that differ."""
    found = [difference for difference in differences if difference is not None]
    if not found:
        return "ok", ""
    worst = max(found, key=lambda difference: difference.gap)
    note = f"{len(found)} of {len(differences)} differ, first at token {worst.position}, "
    note += f"gap {worst.gap:.3g}"
    return ("near tie" if worst.gap <= bound else "failed"), note


def bound_of(subject: Subject) -> float:
    """The largest gap of a near tie: that of the built-in model, or of 16-bit logits."""
    if subject.is_built_in:
        return NEAR_TIE_GAP
    arrays = [array for _, array in tree_flatten(subject.model.parameters())]
    is_16 = any(array.dtype in (mx.float16, mx.bfloat16) for array in arrays)
    return NEAR_TIE_GAP_16 if is_16 else NEAR_TIE_GAP


def measure_alone(section: Section, subject: Subject) -> list[Answer]:
    """The answers of another model, each row alone, with their log-probabilities."""
    answers = []
    for text in BEGINNINGS:
        prompt = subject.encode(text)
        engine = subject.make_engine()
        row = make_answer_row(
            "greedy", subject.vocabulary_size, prompt=prompt, logprobs=GIVEN_CANDIDATES
        )
        engine.insert(0, prompt, GIVEN_TOKENS, row)
        tokens: list[Token] = []
        while len(engine) and (section.left_s or not tokens):
            tokens += engine.step()
        candidates = [token.score.top for token in tokens if token.score is not None]
        answers.append(Answer("greedy", prompt, [token.token for token in tokens], candidates))
        if not section.left_s:
            break
    return answers
