"""The check of one model: which of its rows may share what, by its own log-probabilities.

The expected log-probabilities come from whole prompts in one pass, alone, or from decoding
alone where a model differs between the two. With them are compared: a prompt in slices; rows of
unlike lengths in one batch, of which one leaves and one joins; a prompt beyond the model's
window; and prompts that continue cached ones. What gives other values is not used for this
model. The check knows no families: a model is judged by what it computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from protocol.batching import CACHED_PREFIXES, SLICED_PROMPTS, Batching, BatchRules
from protocol.quantisation import KVBits
from worker.cache.prefix_cache import PrefixCache
from worker.engine.batches.model_errors import MODEL_ERRORS, describe_error
from worker.engine.engine import Engine
from worker.engine.prefill_budget import PrefillLimits
from worker.selfcheck.draft_check import ROWS_ALONE, DraftCheck, checking_speculation
from worker.selfcheck.samples import (
    ANSWER_TOKENS,
    ModelFailed,
    Sample,
    make_tokens,
    measure_alone,
    measure_sample,
    rounding_of,
    worst_of,
)
from worker.selfcheck.scored_rows import ScoredRow, Steps, run_rows
from worker.selfcheck.timed_steps import TimedSteps

SHORT_TOKENS, MIDDLE_TOKENS, LONG_TOKENS = 3, 29, 40
SLICE_TOKENS, MIDDLE_SLICE_TOKENS, CUT_TOKENS = 20, 4, 30
# What a later turn adds to a prompt and its answer.
TURN_TOKENS = 4
PAST_WINDOW_TOKENS = 8
# So that a row joins one beyond the window that goes on after that.
WINDOW_ANSWER_TOKENS = 7
MAX_WINDOW_TOKENS = 1024
# How often the tokens of the prompt beyond the window are computed.
WINDOW_PASSES = 4
FLOAT32_BOUND, OTHER_BOUND = 1e-3, 5e-2
# Rounding alone: twice what decoding token by token differs from one pass is no fault of slices.
NOISE_FACTOR, MAX_NOISE = 2.0, 0.5
REST_FACTOR, MAX_REST = 10.0, 1.0
MIN_BUDGET_S, LOAD_SHARE = 2.0, 0.05
CACHE_BYTES = 1 << 30
# All rows of the check are prefilled in one slice, unless they have breakpoints: which rows share
# a step must not depend on how fast they are computed, nor on what a slice may hold at first. One
# prompt alone, which is computed as a whole, takes about as much memory.
SLICE_S, MAX_ROWS, LEAST_TOKENS = 60.0, 8, 64

SLICES, BATCHES, PREFIXES = SLICED_PROMPTS, "rows in one batch", CACHED_PREFIXES
DRAFTS, UNCHECKED_DRAFTS = "drafts", "whether drafts change an answer is not checked yet"
BEYOND = (
    "Rows beyond the window of {} tokens are not checked: they share what those within it share."
)
UNCACHED = "Nothing is kept in the prompt cache"
WHOLE = "Prompts are computed in one slice"
PROBLEMS: dict[Batching, str] = {
    "full": "Prompts of unlike lengths are prefilled apart",
    "decode": "Each row is decoded alone",
}
NOTHING: Batching = "none"

Result = TypeVar("Result")


class ModelCheck:
    """The check of one model, one device step at a time; `rules` is its result so far.

    During the load it takes at most `min_budget_s` (`MIN_BUDGET_S` if None), or `LOAD_SHARE` of
    `load_s` where that is longer. What is not checked yet is not allowed, and
    `rules.unchecked` names it. A window of more than `MAX_WINDOW_TOKENS` that ends within the
    context of `context_tokens` is not tried, which a finding says. With `drafts` it also finds out
    whether these may be verified.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        vocabulary_size: int,
        limits: PrefillLimits,
        context_tokens: int | None = None,
        load_s: float = 0.0,
        min_budget_s: float | None = None,
        make_engine: Callable[..., Engine] = Engine,
        make_cache: Callable[[int, None], PrefixCache] = PrefixCache,
        kv_bits: KVBits = 0,
        drafts: bool = False,
    ) -> None:
        self._cache = make_cache(CACHE_BYTES, None)
        self._engine = make_engine(
            model,
            max_running=MAX_ROWS,
            prefill=PrefillLimits(
                max(limits.max_tokens, LEAST_TOKENS), MAX_ROWS, SLICE_S, yields_to_rows=False
            ),
            prompt_cache=self._cache,
            kv_bits=kv_bits,
            speculation=checking_speculation() if drafts else None,
        )
        self._vocabulary_size = vocabulary_size
        # Rounding may change the code of a quantised value.
        self._is_float32 = is_float32(model) and not self._engine.quantisation.layers
        self._floor = self._bound = FLOAT32_BOUND if self._is_float32 else OTHER_BOUND
        least_s = MIN_BUDGET_S if min_budget_s is None else min_budget_s
        self._steps = TimedSteps(self._check(), max(least_s, LOAD_SHARE * load_s))
        self._token_s = 0.0
        self._findings: list[str] = []
        # None before it is checked.
        self._slices: bool | None = None
        self._batching: Batching | None = None
        self._prefixes: bool | None = None
        # Why no drafts are verified; empty if they are, None before it is checked.
        self._undrafted: str | None = None
        self._drafts = DraftCheck(vocabulary_size, context_tokens) if drafts else None
        self._samples: list[Sample] = []
        self._is_by_decoding = False
        windows = self._engine.kv_cost.windows
        self._window_tokens = max([n for n in windows if n <= MAX_WINDOW_TOKENS], default=0)
        self._window_is_pending = self._window_tokens > 0
        for tokens in windows:
            if MAX_WINDOW_TOKENS < tokens < (context_tokens or math.inf):
                self._findings.append(BEYOND.format(tokens))

    @property
    def rules(self) -> BatchRules:
        """What the rows may share, by what is checked so far."""
        batching = self._settled(self._batching, NOTHING)
        slices, prefixes = self._settled(self._slices, False), self._settled(self._prefixes, False)
        results = {SLICES: slices, BATCHES: batching, PREFIXES: prefixes}
        unchecked = [name for name, result in results.items() if result is None]
        undrafted = self._undrafted
        if self._drafts and undrafted is None:
            unchecked.append(DRAFTS)
            undrafted = UNCHECKED_DRAFTS
        return BatchRules(
            batching=batching or "none",
            reuses_prefixes=bool(prefixes),
            slices_prompts=bool(slices),
            findings=list(self._findings),
            unchecked=unchecked,
            verifies_drafts=undrafted == "",
            undrafted=undrafted or "",
        )

    def _settled(self, result: Result | None, least: Result) -> Result | None:
        """The result; None where it may be lowered yet, by a prompt beyond the window."""
        return result if result == least or not self._window_is_pending else None

    @property
    def is_overdue(self) -> bool:
        """Whether it has taken its time; it may go on while the model is idle."""
        return not self._steps.left_s

    def advance(self) -> bool:
        """Compute one step; True when the check has ended.

        Raises:
            RuntimeError: the device failed.
        """
        try:
            ended = self._steps.advance()
        except MODEL_ERRORS as error:
            # The model does something that the check does not expect: then it shares nothing.
            self._findings.append(f"The check failed: {describe_error(error)}.")
            self._slices, self._batching, self._prefixes = False, "none", False
            self._undrafted = ROWS_ALONE if self._drafts else None
            ended, self._window_is_pending = True, False
        if ended:
            self._cache.drop("")
        return ended

    # ------------------------------------------------------------ parts

    def _check(self) -> Steps:
        try:
            # The shortest first: it shows how long the others take.
            joining = yield from self._measure(2, SHORT_TOKENS)
            short = yield from self._measure(1, MIDDLE_TOKENS)
            long = yield from self._measure(0, LONG_TOKENS)
        except ModelFailed as error:
            self._findings.append(f"The model fails for one row alone: {error}.")
            self._slices, self._batching, self._prefixes = False, "none", False
            self._undrafted = ROWS_ALONE if self._drafts else None
            self._window_is_pending = False
            return
        self._samples = [long, short, joining]
        yield from self._check_rows(long)
        yield from self._check_prefixes(long, short)
        if self._window_is_pending:
            yield from self._check_window()
            self._window_is_pending = False
        if self._drafts is not None:
            self._engine.rules = BatchRules(self._batching or "none", False, bool(self._slices))
            self._undrafted = yield from self._drafts.find_fault(self._engine)

    def _measure(
        self, number: int, length: int, answer_tokens: int = ANSWER_TOKENS
    ) -> Generator[None, None, Sample]:
        length += 2 * answer_tokens + TURN_TOKENS
        yield from self._wait_for_time(length)
        started_s = self._steps.spent_s
        tokens = make_tokens(number, length, self._vocabulary_size)
        sample = yield from measure_sample(self._engine, tokens, answer_tokens)
        self._token_s = (self._steps.spent_s - started_s) / length
        return sample

    def _wait_for_time(self, tokens: int) -> Steps:
        """Let the load end first where a slice of these tokens would exceed the time."""
        if self._token_s * tokens > self._steps.left_s > 0:
            self._steps.use_up()
            yield

    def _check_rows(self, long: Sample) -> Steps:
        """Slices and batches: in one run where nothing differs."""
        problem = yield from self._try_batch("full")
        if problem is None:
            self._slices, self._batching = True, "full"
            return
        yield from self._measure_alone()
        self._slices = may_slice = yield from self._check_slices(long)
        if may_slice:
            problem = yield from self._try_batch("full")
        if may_slice and problem is None:
            self._batching = "full"
            return
        self._findings.append(f"{PROBLEMS['full']}: {problem}.")
        yield from self._lower_batching()

    def _measure_alone(self) -> Steps:
        long, short, joining = self._samples
        turn = ANSWER_TOKENS + TURN_TOKENS
        lengths = [LONG_TOKENS, LONG_TOKENS + turn, CUT_TOKENS]
        yield from measure_alone(self._engine, long, lengths)
        lengths = [MIDDLE_TOKENS, MIDDLE_TOKENS + turn, SHORT_TOKENS]
        yield from measure_alone(self._engine, short, lengths)
        yield from measure_alone(self._engine, joining, [SHORT_TOKENS])
        self._is_by_decoding = True

    def _check_slices(self, long: Sample) -> Generator[None, None, bool]:
        """Whether two slices give what one gives, and how much rounding differs."""
        sliced = long.row(LONG_TOKENS, breakpoints=[SLICE_TOKENS])
        difference = yield from self._difference([sliced], BatchRules("none", False))
        bound = self._floor
        if difference > bound and not self._is_float32:
            noise = rounding_of(self._samples)
            bound = max(bound, min(NOISE_FACTOR * noise, MAX_NOISE))
        if difference > bound:
            why = explain(difference, bound, [sliced])
            self._findings.append(f"{WHOLE}: {why}.")
            return False
        self._bound = min(max(self._floor, REST_FACTOR * difference), MAX_REST)
        return True

    def _lower_batching(self) -> Steps:
        """Decode in a batch what is prefilled apart, or nothing."""
        problem = yield from self._try_batch("decode")
        self._batching = "decode" if problem is None else "none"
        if problem is not None:
            self._findings.append(f"{PROBLEMS['decode']}: {problem}.")

    def _try_batch(self, level: Batching) -> Generator[None, None, str | None]:
        """What is wrong with rows that share this; None if nothing is."""
        long, short, joining = self._samples
        rows = [
            long.row(LONG_TOKENS, breakpoints=[SLICE_TOKENS]),
            short.row(MIDDLE_TOKENS, breakpoints=[MIDDLE_SLICE_TOKENS]),
            short.row(SHORT_TOKENS, leaves_after=1),
            joining.row(SHORT_TOKENS, joins_after=2),
        ]
        self._cache.drop("")
        return (yield from self._compare(rows, level))

    def _check_prefixes(self, long: Sample, short: Sample) -> Steps:
        """Whether prompts that continue cached ones give what they give alone."""
        level = self._batching or "none"
        if level == "none":
            # The rows that were tried in a batch have left nothing that is right.
            self._cache.drop("")
            yield from self._compare([long.row(LONG_TOKENS), short.row(MIDDLE_TOKENS)], level)
        turn = ANSWER_TOKENS + TURN_TOKENS
        rows = [
            long.row(LONG_TOKENS + turn),
            short.row(MIDDLE_TOKENS + turn),
            long.row(CUT_TOKENS),
        ]
        fault = self._engine.cache_fault or (yield from self._compare(rows, level))
        self._prefixes = fault is None
        if fault is not None:
            self._findings.append(f"{UNCACHED}: {fault}.")

    def _check_window(self) -> Steps:
        """Whether all this holds for a prompt beyond the window too."""
        length = self._window_tokens + PAST_WINDOW_TOKENS
        yield from self._wait_for_time(length * WINDOW_PASSES)
        try:
            window = yield from self._measure(3, length, WINDOW_ANSWER_TOKENS)
        except ModelFailed:
            # A prompt so long fails for this model, whatever it shares.
            return
        if self._is_by_decoding or (yield from self._try_window(window)) is not None:
            lengths = [length, length + WINDOW_ANSWER_TOKENS + TURN_TOKENS, CUT_TOKENS]
            yield from measure_alone(self._engine, window, lengths)
            yield from self._lower_by_window(window)
        yield from self._check_window_prefix(window, length)

    def _lower_by_window(self, window: Sample) -> Steps:
        """Find what gives the right values for a prompt beyond the window."""
        if self._slices:
            problem = yield from self._try_window_again(window, alone=True)
            if problem is None and self._batching == "none":
                return
            if problem is not None:
                self._slices = False
                self._findings.append(f"{WHOLE}: {problem} beyond the window.")
                if self._batching == "full":
                    yield from self._lower_batching()
        while (level := self._batching or "none") != "none":
            if (problem := (yield from self._try_window_again(window))) is None:
                return
            self._findings.append(f"{PROBLEMS[level]}: {problem} beyond the window.")
            self._batching = "none"
            if level == "full":
                yield from self._lower_batching()
        # What was tried in slices or in a batch has left nothing that is right.
        yield from self._try_window_again(window, alone=True)

    def _try_window_again(
        self, window: Sample, *, alone: bool = False
    ) -> Generator[None, None, str | None]:
        """The same without what an earlier try has left in the prompt cache."""
        self._cache.drop("")
        return (yield from self._try_window(window, alone=alone))

    def _try_window(
        self, window: Sample, *, alone: bool = False
    ) -> Generator[None, None, str | None]:
        """What is wrong with a prompt beyond the window, beside short ones or alone."""
        length = self._window_tokens + PAST_WINDOW_TOKENS
        # One slice crosses the window, the next begins beyond it.
        breakpoints = [self._window_tokens // 2, length - PAST_WINDOW_TOKENS // 2]
        row = window.row(length, breakpoints=breakpoints)
        if alone:
            return (yield from self._compare([row], "none"))
        _, short, joining = self._samples
        # It joins a row that decodes, and another one joins it.
        joins_after = ANSWER_TOKENS + 1
        rows = [row, short.row(SHORT_TOKENS), joining.row(SHORT_TOKENS, joins_after=joins_after)]
        return (yield from self._compare(rows, self._batching or "none"))

    def _check_window_prefix(self, window: Sample, length: int) -> Steps:
        turn = WINDOW_ANSWER_TOKENS + TURN_TOKENS
        # Nothing is cached of the second one, which is computed beside what goes on.
        rows = [window.row(length + turn), window.row(CUT_TOKENS)]
        fault = self._engine.cache_fault or (
            yield from self._compare(rows, self._batching or "none")
        )
        if self._prefixes and fault is not None:
            self._prefixes = False
            self._findings.append(f"{UNCACHED}: {fault} beyond the window.")

    # ------------------------------------------------------------ comparison

    def _compare(self, rows: list[ScoredRow], level: Batching) -> Generator[None, None, str | None]:
        """How these rows differ from their expected scores; None if by rounding only."""
        # Rows that share a slice are the first that are sliced.
        rules = BatchRules(level, True, self._slices is not False)
        difference = yield from self._difference(rows, rules)
        return None if difference <= self._bound else explain(difference, self._bound, rows)

    def _difference(self, rows: list[ScoredRow], rules: BatchRules) -> Generator[None, None, float]:
        self._engine.rules = rules
        yield from run_rows(self._engine, rows)
        return worst_of(rows)


def explain(difference: float, bound: float, rows: Sequence[ScoredRow]) -> str:
    """Why these rows are wrong, in words."""
    if failure := next((row.failure for row in rows if row.failure), None):
        return f"the model fails ({failure})"
    return f"log-probabilities differ by {difference:.2g} (rounding: at most {bound:.2g})"


def is_float32(model: nn.Module) -> bool:
    """Whether all of its numbers have 32 bits."""
    arrays = (array for _, array in tree_flatten(model.parameters()))
    floating = [array for array in arrays if mx.issubdtype(array.dtype, mx.floating)]
    return all(array.dtype == mx.float32 for array in floating)
