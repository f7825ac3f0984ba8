"""Draws the next token of every row of a batch.

A draw is a pure function of the row's logits, its seed, its position in the
answer and the tokens before it, so an answer does not depend on its neighbours
or on a restart. All rows are drawn by the same few operations, whatever their
parameters: what a row asks for is a number in a vector, and every operation is
exactly neutral for the rows that do not ask.

The draw is the largest of all tokens' scaled logits plus noise of their own
(Gumbel-max). Logits that differ in their last bits, as those of another batch or of
a resumed prompt may, then move a draw only where two tokens come out as near as
that. Going up a cumulated distribution moves it at the border of every token.

The order is mlx-lm's: adjusted logits, `top_p`, `min_p` and `top_k` on their
distribution, temperature last.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx
import numpy as np

from protocol.messages import Sampling
from worker.engine.bitmask import BitMask, mask_logits
from worker.engine.logits_processors import LogitsProcessors, make_logits_processors
from worker.engine.token_logprobs import PromptScorer

logger = logging.getLogger(__name__)

MASK_64 = (1 << 64) - 1
WEYL_INCREMENT = 0x9E3779B97F4A7C15
WORD_BITS = 32
MASK_32 = (1 << WORD_BITS) - 1
LOWEST_TEMPERATURE = 1e-6
# Below what MLX's noise has in any but one of 2**32 tokens, where it is -inf: a token that is
# the only one allowed must come out even then.
LOWEST_NOISE = -4.0


class Constraint(Protocol):
    """What limits a row's next token to some of the vocabulary, by the tokens before it.

    Once `complete`, nothing may follow but the answer's end.
    """

    complete: bool

    def accept(self, token: int) -> None:
        """The answer has this token too; also called for those of an earlier worker."""

    def mask(self) -> BitMask | None:
        """Bit n of word n // 32 allows token n; ids past the last word are not allowed.

        None allows all.
        """


@dataclass(frozen=True, slots=True)
class Sibling:
    """A row without a prefill of its own, by its number in mlx-lm's generator."""

    uid: int
    row: Row
    max_tokens: int


@dataclass(slots=True)
class Row:
    """One sequence's place in the sampling of a batch.

    `position` counts the tokens drawn for it, `ends` are those that end it. A
    `fault` of its own is told with its next token; it ends this row alone. With
    `logprobs` its tokens are scored with so many alternatives, and by `scorer` its
    prompt's. `siblings` have the same prompt, and begin where its prefill ends.
    """

    sampling: Sampling
    stop_token_ids: frozenset[int] = frozenset()
    position: int = 0
    logits_processors: LogitsProcessors | None = None
    constraint: Constraint | None = None
    fault: str | None = None
    logprobs: int | None = None
    scorer: PromptScorer | None = None
    siblings: list[Sibling] = field(default_factory=list)

    @property
    def follows_history(self) -> bool:
        """Whether a draw must wait until the token before it is known."""
        adjusts = self.logits_processors is not None and self.logits_processors.follows_history
        return adjusts or self.constraint is not None

    @property
    def complete(self) -> bool:
        """Whether the constraint leaves nothing but the answer's end."""
        return self.constraint is not None and self.constraint.complete

    def accept(self, token: int) -> None:
        """The answer has this token too."""
        try:
            if self.logits_processors is not None:
                self.logits_processors.accept(token)
            if self.constraint is not None and self.fault is None:
                self.constraint.accept(token)
        except Exception as error:
            # One row's fault must not end the others; the device is not involved.
            logger.exception("a row failed")
            self.fault = reason_of(error)

    def mask(self) -> BitMask | None:
        """The constraint's mask; none where it has failed."""
        if self.constraint is None or self.fault is not None:
            return None
        try:
            return self.constraint.mask()
        except Exception as error:
            logger.exception("a row's constraint failed")
            self.fault = reason_of(error)
            return None


def reason_of(error: Exception) -> str:
    """What an error says, or its name where it says nothing."""
    return str(error) or type(error).__name__


def make_row(
    sampling: Sampling,
    stop_tokens: Iterable[int] = (),
    *,
    prompt: Iterable[int] = (),
    resume: Sequence[int] = (),
    constraint: Constraint | None = None,
    logprobs: int | None = None,
    scorer: PromptScorer | None = None,
) -> Row:
    """A row after the prompt and the tokens of `resume`, which were drawn before.

    `stop_tokens` are the model's own.
    """
    stop_token_ids = effective_stop_token_ids(sampling, stop_tokens)
    logits_processors = make_logits_processors(sampling, stop_token_ids, prompt)
    row = Row(
        sampling=sampling,
        stop_token_ids=stop_token_ids,
        position=len(resume),
        logits_processors=logits_processors,
        constraint=constraint,
        logprobs=logprobs,
        scorer=scorer,
    )
    for token in resume:
        row.accept(token)
    return row


def effective_stop_token_ids(sampling: Sampling, stop_tokens: Iterable[int]) -> frozenset[int]:
    """The tokens that end an answer: the model's own unless they are ignored, and the request's."""
    own = () if sampling.ignore_eos else stop_tokens
    return frozenset(own) | frozenset(sampling.stop_tokens)


def draw_tokens(logits: mx.array, rows: Sequence[Row]) -> mx.array:
    """Token ids of shape [rows] from logits of shape [rows, vocabulary]; rows move on by one."""
    logits = mask_logits(process_logits(logits, rows), [row.mask() for row in rows])
    drawn = mx.argmax(logits, axis=-1)
    places = [place for place, row in enumerate(rows) if row.sampling.temperature > 0]
    if places:
        sampled = sample_tokens(take_rows(logits, places), [rows[place] for place in places])
        if len(places) == len(rows):
            drawn = sampled
        else:
            drawn[mx.array(places)] = sampled
    for row in rows:
        row.position += 1
    return drawn


def process_logits(logits: mx.array, rows: Sequence[Row]) -> mx.array:
    """The logits with each row's own logits_processors; the same array where no row has one."""
    tables = [
        (place, row.logits_processors.table(row.position))
        for place, row in enumerate(rows)
        if row.logits_processors is not None
    ]
    counts = [len(ids) for _, (ids, _, _) in tables]
    if not sum(counts):
        return logits
    row_of = mx.array(np.repeat([place for place, _ in tables], counts).astype(np.int32))
    ids, scales, offsets = (
        mx.array(np.concatenate([table[part] for _, table in tables])) for part in range(3)
    )
    adjusted = logits.astype(mx.float32)
    values = adjusted[row_of, ids]
    values = mx.where(values > 0, values / scales, values * scales) + offsets
    adjusted[row_of, ids] = values
    return adjusted


def sample_tokens(logits: mx.array, rows: Sequence[Row]) -> mx.array:
    """Token ids of shape [rows], drawn at random with each row's own parameters."""
    logits = logits.astype(mx.float32)
    lowest = lowest_kept(logits, [row.sampling for row in rows])
    if lowest is not None:
        logits = mx.where(logits < lowest, -math.inf, logits)
    temperatures = column(max(row.sampling.temperature, LOWEST_TEMPERATURE) for row in rows)
    keys = mx.array([draw_key(row.sampling.seed, row.position) for row in rows], mx.uint32)
    return mx.argmax(logits / temperatures + noise(keys, logits.shape[-1]), axis=-1)


def noise(keys: mx.array, vocabulary: int) -> mx.array:
    """Gumbel noise of shape [rows, vocabulary]; a row's depends on its key, of shape [2], alone."""
    drawn: mx.array = mx.vmap(lambda key: mx.random.gumbel((vocabulary,), key=key))(keys)
    return mx.maximum(drawn, LOWEST_NOISE)


def lowest_kept(logits: mx.array, samplings: Sequence[Sampling]) -> mx.array | None:
    """The lowest logit that each row's filters leave, of shape [rows, 1]; None if none filters."""
    bounds = []
    if any(sampling.min_p for sampling in samplings):
        # Where it is off, the log of 0: no bound.
        shares = column(log_or_lowest(sampling.min_p) for sampling in samplings)
        bounds.append(mx.max(logits, axis=-1, keepdims=True) + shares)
    ranked = [
        place
        for place, sampling in enumerate(samplings)
        if sampling.top_p < 1 or 0 < sampling.top_k < logits.shape[-1]
    ]
    if ranked:
        bound = mx.full((len(samplings), 1), -math.inf)
        bound[mx.array(ranked)] = lowest_ranked(
            take_rows(logits, ranked), [samplings[place] for place in ranked]
        )
        bounds.append(bound)
    return mx.max(mx.stack(bounds), axis=0) if bounds else None


def lowest_ranked(logits: mx.array, samplings: Sequence[Sampling]) -> mx.array:
    """The lowest logit that `top_p` and `top_k` leave, of shape [rows, 1]; equals stay together."""
    vocabulary = logits.shape[-1]
    ordered = mx.sort(logits, axis=-1)
    ranks = [min(sampling.top_k, vocabulary) or vocabulary for sampling in samplings]
    kth = mx.take_along_axis(ordered, vocabulary - mx.array(ranks)[:, None], axis=-1)
    if all(sampling.top_p >= 1 for sampling in samplings):
        return kth
    top_p = column(sampling.top_p for sampling in samplings)
    weights = mx.exp(ordered - ordered[:, -1:])
    above = mx.cumsum(weights, axis=-1, reverse=True, inclusive=False)
    total = above[:, :1] + weights[:, :1]
    dropped = mx.sum(above >= top_p * total, axis=-1, keepdims=True)
    nucleus = mx.take_along_axis(ordered, dropped, axis=-1)
    return mx.maximum(kth, mx.where(top_p < 1, nucleus, -math.inf))


def take_rows(logits: mx.array, places: Sequence[int]) -> mx.array:
    """These rows of the logits; the same array where they are all of them."""
    return logits if len(places) == logits.shape[0] else logits[mx.array(list(places))]


def column(values: Iterable[float]) -> mx.array:
    """One number a row, of shape [rows, 1]."""
    return mx.array(list(values), mx.float32)[:, None]


def log_or_lowest(value: float) -> float:
    """The logarithm, -inf at 0."""
    return math.log(value) if value > 0 else -math.inf


def draw_key(seed: int, position: int) -> tuple[int, int]:
    """MLX's random key, two words of 32 bits, for one draw (SplitMix64, Steele et al. 2014)."""
    mixed = mix_64(mix_64(seed & MASK_64) + position * WEYL_INCREMENT)
    return mixed >> WORD_BITS, mixed & MASK_32


def mix_64(value: int) -> int:
    """SplitMix64's output function on the next state after `value`."""
    value = (value + WEYL_INCREMENT) & MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK_64
    return value ^ (value >> 31)
