"""Greedy answers of a model through the engine core, compared with those of mlx-lm alone."""

from __future__ import annotations

import logging
import operator
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_adapters, load_model

from protocol.events import Failed, Rejected, Started, TextDelta
from protocol.messages import ModelSource, Sampling, Step, Submit, TokenPrompt
from tests.worker.driver import events_of, make_config_loader, make_configure, run_loop
from tests.worker.kept_checks import kept_checks
from worker.models.pool import ModelPool

logger = logging.getLogger(__name__)

GREEDY = Sampling(seed=0, temperature=0.0, ignore_eos=True)
# Shorter and longer than a sliding window (32 tokens) and than a slice of prefill.
LENGTHS = (3, 9, 16, 33, 40, 70, 120, 150)
SINGLE = (1, 4, 7)  # the prompts that are asked alone, too
SLICE_TOKENS = 64
ANSWER_TOKENS = 8
QUESTION_TOKENS = 6
# So that slices do not depend on the speed of the machine.
UNLIMITED_S = 1e6
PROMPT_CACHE_BYTES = 1 << 28
# mlx-lm computes log-probabilities in the type of the weights: near 16, bfloat16 has steps of 1/16.
MAX_LOGPROB_DIFFERENCES = {mx.float32: 0.01, mx.float16: 0.02, mx.bfloat16: 0.1}

CHECKS = ("alone", "again", "next turn", "eight at once", "alone after")
# "anew": right, but computed although the prompt cache could have it. "none": mlx-lm cannot make
# such a model.
Outcome = Literal["right", "wrong", "fails", "anew", "none"]
Prompts = Mapping[int, Sequence[int]]
# The outcomes of checks by their names.
Outcomes = Mapping[str, Outcome]


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer, and the log-probability of each, computed in `dtype`."""

    tokens: list[int]
    logprobs: list[float]
    dtype: mx.Dtype

    def allows(self, other: Answer) -> bool:
        """Whether the other's tokens are the same, and equally probable."""
        differences = map(operator.sub, self.logprobs, other.logprobs)
        most = MAX_LOGPROB_DIFFERENCES[self.dtype]
        return (
            self.tokens == other.tokens
            and len(self.logprobs) == len(other.logprobs)
            and all(abs(difference) <= most for difference in differences)
        )


def compare(path: Path, adapter: Path | None = None) -> dict[str, Outcome]:
    """How the model in this folder answers in each of the checks."""
    reference = Reference(path, adapter)
    prompts = make_prompts()
    single = {number: prompts[number] for number in SINGLE}
    turns = {number: reference.next_turn(prompt) for number, prompt in single.items()}
    expected = {number: reference.answer(prompt) for number, prompt in prompts.items()}
    expected_turns = {number: reference.answer(prompt) for number, prompt in turns.items()}
    with tempfile.TemporaryDirectory() as folder, kept_checks(Path(folder)):
        first, second = Served(path, adapter), Served(path, adapter)
    checks: dict[str, Callable[[], Outcome]] = {
        "alone": partial(ask_each, first, single, expected),
        "again": partial(ask_again, first, single, expected),
        "next turn": partial(ask_each, first, turns, expected_turns),
        "eight at once": partial(ask_at_once, second, prompts, expected),
        "alone after": partial(ask_each, second, single, expected),
    }
    outcomes = {check: outcome_of(check, ask) for check, ask in checks.items()}
    if outcomes["eight at once"] != "right":
        # Whether what a wrong batch leaves in the prompt cache is right, too, is chance.
        outcomes["alone after"] = outcomes["eight at once"]
    return outcomes


def compare_at_once(path: Path) -> Outcome:
    """How the model answers eight prompts at once."""
    reference, prompts = Reference(path), make_prompts()
    expected = {number: reference.answer(prompt) for number, prompt in prompts.items()}
    return outcome_of("eight at once", partial(ask_at_once, Served(path), prompts, expected))


def make_prompts() -> dict[int, list[int]]:
    """Eight prompts by their numbers; none is the beginning of another."""
    return {number: make_prompt(number, length) for number, length in enumerate(LENGTHS)}


def outcome_of(check: str, ask: Callable[[], Outcome]) -> Outcome:
    """The outcome of one check; an error of the engine is one, too."""
    try:
        return ask()
    except Exception as error:
        # Which errors a family raises is what is looked for.
        logger.warning("%s: %r", check, error)
        return "fails"


def make_prompt(number: int, length: int) -> list[int]:
    """A prompt of this many tokens."""
    return [(7 * index + 3 * number) % 250 + 3 for index in range(length)]


class Reference:
    """mlx-lm's own answers, one prompt at a time."""

    def __init__(self, path: Path, adapter: Path | None = None) -> None:
        self._model, _ = load_model(path)
        if adapter is not None:
            self._model = load_adapters(self._model, str(adapter))
            self._model.eval()
        self._answers: dict[tuple[int, ...], Answer] = {}

    def answer(self, prompt: Sequence[int]) -> Answer:
        """The greedy answer; each is computed once."""
        key = tuple(prompt)
        if key not in self._answers:
            self._answers[key] = generate(self._model, prompt)
        return self._answers[key]

    def next_turn(self, prompt: Sequence[int]) -> list[int]:
        """The prompt, its answer, and a further question."""
        question = make_prompt(len(prompt), QUESTION_TOKENS)
        return [*prompt, *self.answer(prompt).tokens, *question]


def generate(model: nn.Module, prompt: Sequence[int]) -> Answer:
    """mlx-lm's greedy answer."""
    steps = list(generate_step(mx.array(list(prompt)), model, max_tokens=ANSWER_TOKENS))
    tokens = [int(token) for token, _ in steps]
    logprobs = [float(logprobs[token].item()) for token, logprobs in steps]
    return Answer(tokens, logprobs, steps[0][1].dtype)


class EngineFailed(Exception):
    """An earlier request has ended the engine core with an error, as it would end a worker."""


class Served:
    """A model that a pool has loaded, with a prompt cache of its own."""

    def __init__(self, path: Path, adapter: Path | None = None) -> None:
        source = ModelSource(path.name, str(path), adapter_path=str(adapter) if adapter else None)
        configure = make_configure([source], prefill_step_tokens=SLICE_TOKENS)
        configure = msgspec.structs.replace(
            configure, prompt_cache_bytes=PROMPT_CACHE_BYTES, prefill_slice_s=UNLIMITED_S
        )
        self._model = path.name
        self._pool = ModelPool(configure, make_config_loader())
        self._pool.load_all()
        self._failed = False
        # Of all prompts so far.
        self.cached_tokens = 0

    def answer(self, prompts: Prompts) -> dict[int, Answer]:
        """The answers to these prompts, which are submitted at once.

        Raises:
            EngineFailed: the engine core has ended with an error before.
        """
        if self._failed:
            raise EngineFailed
        submits = [
            Submit(
                id=number,
                model=self._model,
                prompt=TokenPrompt(list(prompt)),
                sampling=GREEDY,
                max_tokens=ANSWER_TOKENS,
                logprobs=0,
            )
            for number, prompt in prompts.items()
        ]
        self._failed = True
        steps = run_loop(self._pool, submits)
        self._failed = False
        events = [event for number in prompts for event in events_of(steps, number)]
        for event in events:
            # Such a request has no answer, or a part of it, which is wrong.
            if isinstance(event, Rejected | Failed):
                logger.warning("%s", event)
        started = [event for event in events if isinstance(event, Started)]
        self.cached_tokens += sum(event.cached_tokens for event in started)
        return {number: read_answer(steps, number) for number in prompts}


def read_answer(steps: Sequence[Step], number: int) -> Answer:
    """The answer to one request."""
    deltas = [event for event in events_of(steps, number) if isinstance(event, TextDelta)]
    scores = [score.logprob for delta in deltas for score in delta.logprobs]
    tokens = [token for delta in deltas for token in delta.tokens]
    return Answer(tokens, [score for score in scores if score is not None], mx.float32)


def ask_each(served: Served, prompts: Prompts, expected: Mapping[int, Answer]) -> Outcome:
    """Submit each prompt when the one before is answered."""
    answers: dict[int, Answer] = {}
    for number, prompt in prompts.items():
        answers |= served.answer({number: prompt})
    return judge(answers, expected)


def ask_again(served: Served, prompts: Prompts, expected: Mapping[int, Answer]) -> Outcome:
    """Submit each prompt once more: the prompt cache has it."""
    before = served.cached_tokens
    outcome = ask_each(served, prompts, expected)
    return "anew" if outcome == "right" and served.cached_tokens == before else outcome


def ask_at_once(served: Served, prompts: Prompts, expected: Mapping[int, Answer]) -> Outcome:
    """Submit all prompts at once."""
    return judge(served.answer(prompts), expected)


def judge(answers: Mapping[int, Answer], expected: Mapping[int, Answer]) -> Outcome:
    """Whether all answers are those expected; each that is not is logged."""
    wrong = {n: answer for n, answer in answers.items() if not expected[n].allows(answer)}
    for number, answer in wrong.items():
        logger.warning("prompt %d: %s instead of %s", number, answer, expected[number])
    return "wrong" if wrong else "right"
