"""How large a slice of chunked prefill may be: its rows, and the tokens of each row.

A slice is bounded by time: about `slice_s`, and beside decoding rows, also those of other models,
`PREFILL_PER_DECODE` times as long as a decode step, or `MIN_PREFILL_S` where that is longer. Beside
slow decode steps it takes `LONGEST_S`, or as long as the step, so that the two stay short.
The inter-token time is then at most about three times that of decoding alone. Both speeds are
measured while the engine runs; a short first slice measures the speed of prefill. A slice is
also bounded by the memory of its attention scores. Beside decoding rows it has a least number of
tokens (`rows/slice_floor.py`). Rows shrink before tokens do: prompts that do not fit take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.engine.attention_cost import AttentionCost
from worker.engine.rows.slice_floor import LONGEST_S, SliceFloor
from worker.engine.stopwatch import moving_average

PREFILL_PER_DECODE = 2.0
# A shorter wait is not noticed, and smaller slices would slow the prefill down.
MIN_PREFILL_S = 0.012
# A decode step until one without a slice is measured: for other models it is not none.
UNMEASURED_DECODE_S = 0.005
# On a CPU without a fast BLAS 32 tokens take ten decode steps of two rows, and 8 cost 1.04 times as
# much for each token. With one the time allows more than 8.
MIN_TOKENS = 8
# The tokens of the first slice, before anything is measured.
FIRST_TOKENS = 32
# Up to this context attention takes a small part of a slice's time. A slice far behind all
# measured ones is expected to take longer in proportion to what its context exceeds this by.
SHORT_CONTEXT_TOKENS = 4096
# A slice that takes this many times `slice_s` replaces the average.
OVERRUN = 1.5
# The first measurement includes the compilation of kernels, so the second replaces it.
REPLACED_MEASUREMENTS = 2


@dataclass(frozen=True, slots=True)
class PrefillLimits:
    """The largest slice: in rows, in tokens of each row, in seconds and in bytes of scores.

    `reserve_bytes` 0 is no bound. With `yields_to_rows` a slice is short beside decoding rows.
    """

    max_tokens: int
    max_rows: int = 8
    slice_s: float = 1.0
    reserve_bytes: int = 0
    yields_to_rows: bool = True


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """What a step may do beside other work: whether it `prefills` a slice.

    `others_decode_s` are the seconds of a decode step of other models' rows; 0 without any.
    """

    prefills: bool = True
    others_decode_s: float = 0.0


WHOLE_DEVICE = DeviceShare()


@dataclass(frozen=True, slots=True)
class Prompt:
    """The tokens of one prompt that are computed, and those that are left."""

    computed: int
    left: int


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of `rows` prompts, of `tokens` tokens each, that is expected to take `seconds`."""

    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0


class PrefillBudget:
    """Plans the slices of one model, and measures them."""

    def __init__(self, limits: PrefillLimits, attention: AttentionCost | None = None) -> None:
        self._limits = limits
        self._attention = attention or AttentionCost()
        self._decode_s = 0.0
        # As of the step's `DeviceShare`.
        self.others_decode_s = 0.0
        self._prompt_token_s = 0.0
        # The context at which the speed of prefill was measured.
        self._context = 0.0
        self._measurements = 0
        self._floor = SliceFloor(MIN_TOKENS)

    @property
    def decode_s(self) -> float:
        """The seconds of a decode step; 0 before one is measured."""
        return self._decode_s

    @property
    def expected_decode_s(self) -> float:
        """The seconds of a decode step, also before one is measured."""
        return self._decode_s or UNMEASURED_DECODE_S

    def plan(self, decoding_rows: int, prompts: Sequence[Prompt], *, whole: bool = False) -> Slice:
        """The next slice of these prompts, which are in the order of preference.

        A `whole` one has all that is left of them, whatever its time and memory.
        """
        if whole:
            return self._plan_whole(prompts[: self._limits.max_rows])
        rows = tokens = context = 0
        for prompt in prompts[: self._limits.max_rows]:
            behind = max(context, prompt.computed)
            width = max(tokens, min(prompt.left, self._limits.max_tokens))
            if rows and width > self._fitting_tokens(decoding_rows, rows + 1, behind):
                break
            rows, tokens, context = rows + 1, width, behind
        if not rows:
            return Slice()
        # One token is always computed.
        tokens = min(tokens, max(1, self._fitting_tokens(decoding_rows, rows, context)))
        return Slice(rows, tokens, rows * tokens * self._token_s(context))

    def longest_whole(self) -> int | None:
        """The most tokens of a slice alone whose memory fits; None without a bound."""
        return self._attention.tokens_within(self._limits.reserve_bytes, 1, 0)

    def _plan_whole(self, prompts: Sequence[Prompt]) -> Slice:
        tokens = max((prompt.left for prompt in prompts), default=0)
        context = max((prompt.computed for prompt in prompts), default=0)
        return Slice(len(prompts), tokens, len(prompts) * tokens * self._token_s(context))

    def record_step(
        self, elapsed_s: float, decoding_rows: int, computed_tokens: int, context: int = 0
    ) -> None:
        """Update the speeds from a step that computed this many prompt tokens, padding included."""
        if not computed_tokens:
            if decoding_rows:
                self._decode_s = moving_average(self._decode_s, elapsed_s)
            return
        prefill_s = max(0.0, elapsed_s - (self._decode_s if decoding_rows else 0.0))
        if decoding_rows or self.others_decode_s:
            self._floor.record(computed_tokens, prefill_s)
        token_s = prefill_s / computed_tokens
        self._measurements += 1
        if (
            self._measurements <= REPLACED_MEASUREMENTS
            or prefill_s > OVERRUN * self._limits.slice_s
        ):
            self._prompt_token_s, self._context = token_s, context
            return
        self._prompt_token_s = moving_average(self._prompt_token_s, token_s)
        self._context = moving_average(self._context, context)

    def _fitting_tokens(self, decoding_rows: int, rows: int, context: int) -> int:
        """The tokens of each of this many rows that fit the time and the memory."""
        tokens = min(self._limits.max_tokens, self._tokens_in_time(decoding_rows, rows, context))
        fitting = self._attention.tokens_within(self._limits.reserve_bytes, rows, context)
        return tokens if fitting is None else min(tokens, fitting)

    def _tokens_in_time(self, decoding_rows: int, rows: int, context: int) -> int:
        token_s = self._token_s(context)
        if not token_s:
            return FIRST_TOKENS // rows
        longest_s = self._limits.slice_s
        most = int(longest_s / token_s / rows)
        is_alone = not decoding_rows and not self.others_decode_s
        if is_alone or not self._limits.yields_to_rows:
            return most
        decode_s = self.others_decode_s + (self._decode_s if decoding_rows else 0.0)
        fitting = int(bound_slice_s(decode_s) / token_s)
        return min(most, self._floor.choose(fitting) // rows)

    def _token_s(self, context: int) -> float:
        """The seconds of one token behind `context` tokens; 0 before anything is measured."""
        longer = (context + SHORT_CONTEXT_TOKENS) / (self._context + SHORT_CONTEXT_TOKENS)
        return self._prompt_token_s * max(1.0, longer)


def bound_slice_s(decode_s: float) -> float:
    """The seconds of a slice beside decode steps that take so long."""
    return max(MIN_PREFILL_S, min(PREFILL_PER_DECODE * decode_s, LONGEST_S), decode_s)
