"""The time of passes, and the speed of attention, measured with the model once it is loaded.

A row decodes as it does later. Where drafts are verified, several rows do, and verify drafts of a
given size, which are wrong.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx_lm.models.cache import KVCache

from protocol.batching import BatchRules
from protocol.quantisation import KVBits
from worker.drafts.drafter import Draft
from worker.engine.batches.model_errors import MODEL_ERRORS
from worker.engine.batches.speculation.cost_curve import CostCurve
from worker.engine.batches.speculation.draft_plan import MAX_DRAFT_TOKENS
from worker.engine.batches.speculation.pass_costs import PassCosts
from worker.engine.batches.speculation.speculation import Drafts, Speculation
from worker.engine.engine import Engine, Token
from worker.engine.prefill_budget import PrefillLimits
from worker.engine.sampler import Row, make_row
from worker.engine.stopwatch import Stopwatch
from worker.memory.kv_cost import flatten_caches, run_lazily
from worker.selfcheck.samples import make_tokens
from worker.selfcheck.scored_rows import GREEDY, Steps
from worker.selfcheck.timed_steps import TimedSteps

logger = logging.getLogger(__name__)

# One row first: what the others cost is reckoned from it if the time is over.
TIMED_ROWS = (1, 4, 2, 8)
TIMED_PLACES = (1, MAX_DRAFT_TOKENS + 1, MAX_DRAFT_TOKENS // 2)
# The sizes take turns, so that another process slows all of them; the shortest pass of each counts.
# Behind a drafted pass the first one without drafts is not measured.
TURNS = 3
TURN_PLACES = (1, *TIMED_PLACES)
PROMPT_TOKENS = 16
ATTENDED_BYTES, MIN_SECONDS = 16 << 20, 1e-6
# More than are drawn, even if all drafts are right: no row ends.
MAX_TOKENS = (2 + len(TURN_PLACES) * TURNS) * (MAX_DRAFT_TOKENS + 1)
SLICE_S = 60.0
# The time that the measurement takes during a load; it goes on while no request runs.
MIN_BUDGET_S, LOAD_SHARE = 0.5, 0.02


class CurveCosts(PassCosts):
    """Enters what passes took into a curve, while `is_on`."""

    def __init__(self, curve: CostCurve) -> None:
        super().__init__()
        self.is_on = False
        self._entered = curve

    def record(self, rows: int, places: int, seconds: float) -> None:
        """Enter a pass."""
        if self.is_on:
            self._entered.add(rows, places, seconds)


class SizedSpeculation(Speculation):
    """Drafts the same for every row, so that a pass has this many `places`."""

    places = 1

    def plan(
        self, rows: Sequence[Row], tokens_left: Sequence[int], read: Callable[[], list[int]]
    ) -> Drafts | None:
        """Drafts of any tokens."""
        if self.places == 1:
            return None
        return Drafts(read(), [Draft([0] * (self.places - 1)) for _ in rows])


class PassTiming:
    """Fills a curve, a pass at a time: with passes of one row and place unless drafts are verified.

    `name` is the model's in the log.
    """

    def __init__(
        self,
        model: nn.Module,
        curve: CostCurve,
        *,
        name: str = "",
        vocabulary_size: int,
        limits: PrefillLimits,
        rules: BatchRules,
        load_s: float = 0.0,
        make_engine: Callable[..., Engine] = Engine,
        kv_bits: KVBits = 0,
    ) -> None:
        costs = CurveCosts(curve)
        speculation = SizedSpeculation(costs)
        engine = make_engine(
            model,
            max_running=max(TIMED_ROWS),
            prefill=dataclasses.replace(limits, slice_s=SLICE_S),
            rules=msgspec.structs.replace(rules, reuses_prefixes=False),
            kv_bits=kv_bits,
            speculation=speculation,
        )
        prompt = make_tokens(0, PROMPT_TOKENS, vocabulary_size)
        passes = time_passes(engine, speculation, costs, prompt)
        steps = in_turn(enter_attention(model, curve, name), passes)
        self._passes = TimedSteps(steps, max(MIN_BUDGET_S, LOAD_SHARE * load_s))

    @property
    def is_overdue(self) -> bool:
        """Whether it has taken its time; it may go on while the model is idle."""
        return not self._passes.left_s

    def advance(self) -> bool:
        """Compute one pass; True when all is measured, or the model fails.

        Raises:
            RuntimeError: the device failed.
        """
        try:
            return self._passes.advance()
        except MODEL_ERRORS:
            return True


def in_turn(*parts: Steps) -> Steps:
    """The steps of all parts; no method, so that it holds no check."""
    for part in parts:
        yield from part


def enter_attention(model: nn.Module, curve: CostCurve, name: str) -> Steps:
    """Measure the model's attention; one step."""
    curve.attended_bytes_s = measure_attention(model)
    if not curve.attended_bytes_s:
        logger.info(
            "%s: the speed of its attention cannot be measured, as no layer has plain attention; "
            "a pass of a further batch is reckoned by its weights",
            name,
        )
    yield


def measure_attention(model: nn.Module) -> float:
    """The bytes of keys and values of this model that attention reads in a second; 0: unknown.

    It is that of the first layer whose cache is of plain attention.
    """
    caches = flatten_caches(run_lazily(model, 1))
    layer = next((each for each in caches if type(each) is KVCache and each.keys is not None), None)
    if layer is None:
        return 0.0
    _, heads, _, width = layer.keys.shape
    tokens = max(ATTENDED_BYTES // (2 * heads * width * layer.keys.itemsize), 1)
    keys, values = (mx.zeros((1, heads, tokens, width), layer.keys.dtype) for _ in range(2))
    query = mx.zeros((1, heads, 1, width), layer.keys.dtype)
    mx.eval(keys, values, query)
    seconds = []
    for _ in range(TURNS):
        stopwatch = Stopwatch()
        mx.eval(mx.fast.scaled_dot_product_attention(query, keys, values, scale=1.0))
        seconds.append(stopwatch.read_s())
    return (keys.nbytes + values.nbytes) / max(min(seconds), MIN_SECONDS)


def time_passes(
    engine: Engine, speculation: SizedSpeculation, costs: CurveCosts, prompt: list[int]
) -> Steps:
    """Decode each number of rows with passes of each size; no method, so that it holds no check."""
    with_drafts = engine.rules.verifies_drafts
    turn_places = TURN_PLACES if with_drafts else (1,)
    for rows in TIMED_ROWS if with_drafts else (1,):
        speculation.places = 1
        for id in range(rows):
            engine.insert(id, prompt, MAX_TOKENS, make_row(GREEDY))
        # The rows have the same prompt, so they have their first tokens together.
        while not compute(engine):
            yield
        costs.is_on = True
        for places in turn_places * TURNS:
            speculation.places = places
            compute(engine)
            yield
        costs.is_on = False
        engine.remove(range(rows))


def compute(engine: Engine) -> list[Token]:
    """Compute a step; its tokens. Raises the error of a model that fails, whose rows are gone."""
    tokens = engine.step()
    if failed := engine.take_failed():
        raise failed[0].error
    return tokens
