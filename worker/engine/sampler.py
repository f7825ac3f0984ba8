"""Draws the next token of every row of a batch.

A draw is a pure function of the row's logits, its seed, its position in the
answer and the tokens before it, so an answer depends neither on the other rows
of the batch nor on a restart. All rows are drawn by the same few operations: a
row's parameter is a number in a vector, and each operation leaves the logits of
rows without that parameter exactly as they are.

The drawn token has the largest sum of scaled logit and noise (Gumbel-max). Logits
of another batch or of a resumed prompt may differ in their last bits. Such a
difference changes a draw only where the sums of two tokens are that close, while
sampling by the cumulative distribution changes it at the boundary of every token.

The order is mlx-lm's: logits processors, then `top_p`, `min_p` and `top_k` on their
distribution, temperature last.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx
import numpy as np

from protocol.messages import Sampling
from worker.cache.prefix_cache import PrefixReuse
from worker.drafts.drafter import Drafter
from worker.engine.bitmask import BitMask, mask_logits
from worker.engine.logits_processors import LogitsProcessors, make_logits_processors
from worker.engine.token_logprobs import PromptScorer

logger = logging.getLogger(__name__)

MASK_64 = (1 << 64) - 1
WEYL_INCREMENT = 0x9E3779B97F4A7C15
WORD_BITS = 32
MASK_32 = (1 << WORD_BITS) - 1
MIN_TEMPERATURE = 1e-6
# MLX's noise is -inf for one of 2**32 tokens, and above this bound for all others. A token that
# is the only allowed one must be drawn even then.
MIN_NOISE = -4.0


class Constraint(Protocol):
    """Limits a row's next token to a part of the vocabulary, by the tokens before it."""

    @property
    def complete(self) -> bool:
        """Whether only a stop token may follow."""

    def accept(self, token: int) -> None:
        """Add a token to the answer; also called for the tokens of an earlier worker."""

    def mask(self) -> BitMask | None:
        """Bit n of word n // 32 allows token n; ids past the last word are forbidden.

        None allows all tokens.
        """


@dataclass(frozen=True, slots=True)
class Sibling:
    """A row that shares another row's prefill; `uid` is its number in mlx-lm's generator."""

    uid: int
    row: Row
    max_tokens: int


@dataclass(slots=True)
class Row:
    """The sampling state of one sequence.

    `position` counts the tokens drawn for it, and `stop_token_ids` end it. A `fault`
    is an error of this row alone; it is returned with the row's next token. `logprobs`
    is the number of alternatives scored for each token, None without scores; `scorer`
    scores the prompt. `siblings` have the same prompt and start decoding when this
    row's prefill ends. A row that is `alone` is a batch of its own. `reuse` is where its prompt's
    tokens come from, once it is inserted. Of prompts in prefill a lower `priority` comes first.
    With a `drafter` its next tokens may be drafted, as far as there is `room` for tokens.
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
    alone: bool = False
    reuse: PrefixReuse = field(default_factory=PrefixReuse)
    priority: int = 0
    drafter: Drafter | None = None
    room: int = sys.maxsize

    @property
    def depends_on_history(self) -> bool:
        """Whether a draw needs the token before it on the host."""
        processors = self.logits_processors
        return self.constraint is not None or (
            processors is not None and processors.depends_on_history
        )

    @property
    def complete(self) -> bool:
        """Whether the constraint allows only a stop token."""
        return self.constraint is not None and self.constraint.complete

    def accept(self, token: int) -> None:
        """Add a token to the answer."""
        try:
            if self.logits_processors is not None:
                self.logits_processors.accept(token)
            if self.constraint is not None and self.fault is None:
                self.constraint.accept(token)
        except Exception as error:
            # The error of one row must not end the other rows; the device is not involved.
            logger.exception("a row failed")
            self.fault = reason_of(error)

    def mask(self) -> BitMask | None:
        """The constraint's mask; None where it has failed."""
        if self.constraint is None or self.fault is not None:
            return None
        try:
            return self.constraint.mask()
        except Exception as error:
            logger.exception("a row's constraint failed")
            self.fault = reason_of(error)
            return None


Sample = Callable[[mx.array, Sequence[Row]], mx.array]
"""Draws token ids of shape [rows] from logits of [rows, vocabulary]."""


def reason_of(error: Exception) -> str:
    """The error's message, or its class name where the message is empty."""
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
    priority: int = 0,
    drafter: Drafter | None = None,
) -> Row:
    """A row that continues after the prompt and the tokens of `resume`, drawn earlier.

    `stop_tokens` are those of the model.
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
        priority=priority,
        drafter=drafter,
    )
    for token in resume:
        row.accept(token)
    return row


def effective_stop_token_ids(sampling: Sampling, stop_tokens: Iterable[int]) -> frozenset[int]:
    """The tokens that end an answer: the model's, unless ignored, and the request's."""
    of_model = () if sampling.ignore_eos else stop_tokens
    return frozenset(of_model) | frozenset(sampling.stop_tokens)


def draw_tokens(logits: mx.array, rows: Sequence[Row], sample: Sample | None = None) -> mx.array:
    """Token ids of shape [rows] from logits of [rows, vocabulary]; advances each position.

    `sample` draws the random rows; None is `sample_tokens`.
    """
    sample = sample or sample_tokens
    logits = mask_logits(process_logits(logits, rows), [row.mask() for row in rows])
    drawn = mx.argmax(logits, axis=-1)
    random_rows = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
    if random_rows:
        sampled = sample(take_rows(logits, random_rows), [rows[index] for index in random_rows])
        if len(random_rows) == len(rows):
            drawn = sampled
        else:
            drawn[mx.array(random_rows)] = sampled
    for row in rows:
        row.position += 1
    return drawn


def process_logits(logits: mx.array, rows: Sequence[Row]) -> mx.array:
    """The logits after each row's processors; the same array where no row has any."""
    tables = [
        (index, row.logits_processors.table(row.position))
        for index, row in enumerate(rows)
        if row.logits_processors is not None
    ]
    counts = [len(ids) for _, (ids, _, _) in tables]
    if not sum(counts):
        return logits
    row_of = mx.array(np.repeat([index for index, _ in tables], counts).astype(np.int32))
    ids, scales, offsets = (
        mx.array(np.concatenate([table[part] for _, table in tables])) for part in range(3)
    )
    adjusted = logits.astype(mx.float32)
    values = adjusted[row_of, ids]
    values = mx.where(values > 0, values / scales, values * scales) + offsets
    adjusted[row_of, ids] = values
    return adjusted


def sample_tokens(logits: mx.array, rows: Sequence[Row]) -> mx.array:
    """Token ids of shape [rows], drawn at random with each row's parameters."""
    return mx.argmax(noisy_logits(logits, rows), axis=-1)


def noisy_logits(logits: mx.array, rows: Sequence[Row]) -> mx.array:
    """Scaled logits plus noise, of shape [rows, vocabulary]: the largest of a row is drawn."""
    logits = logits.astype(mx.float32)
    min_logits = min_kept_logits(logits, [row.sampling for row in rows])
    if min_logits is not None:
        logits = mx.where(logits < min_logits, -math.inf, logits)
    return logits / temperatures_of(rows) + gumbel_noise(keys_of(rows), logits.shape[-1])


def temperatures_of(rows: Sequence[Row]) -> mx.array:
    """The temperatures, of shape [rows, 1]."""
    return as_column(max(row.sampling.temperature, MIN_TEMPERATURE) for row in rows)


def keys_of(rows: Sequence[Row]) -> mx.array:
    """The keys of the rows' next draws, of shape [rows, 2]."""
    return mx.array([draw_key(row.sampling.seed, row.position) for row in rows], mx.uint32)


def gumbel_noise(keys: mx.array, vocabulary: int) -> mx.array:
    """Noise of shape [rows, vocabulary]; that of a row depends only on its key, of shape [2]."""
    noise: mx.array = mx.vmap(lambda key: mx.random.gumbel((vocabulary,), key=key))(keys)
    return mx.maximum(noise, MIN_NOISE)


def min_kept_logits(logits: mx.array, samplings: Sequence[Sampling]) -> mx.array | None:
    """The lowest logit that each row's filters keep, of shape [rows, 1]; None without filters."""
    bounds = []
    if any(sampling.min_p for sampling in samplings):
        # A min_p of 0 has the log -inf, which is no bound.
        offsets = as_column(log_or_minus_inf(sampling.min_p) for sampling in samplings)
        bounds.append(mx.max(logits, axis=-1, keepdims=True) + offsets)
    ranked_rows = [
        index
        for index, sampling in enumerate(samplings)
        if sampling.top_p < 1 or 0 < sampling.top_k < logits.shape[-1]
    ]
    if ranked_rows:
        bound = mx.full((len(samplings), 1), -math.inf)
        ranked = [samplings[index] for index in ranked_rows]
        bound[mx.array(ranked_rows)] = min_ranked_logits(
            take_rows(logits, ranked_rows), ranks_of(ranked, logits.shape[-1]), top_p_of(ranked)
        )
        bounds.append(bound)
    return mx.max(mx.stack(bounds), axis=0) if bounds else None


def min_ranked_logits(logits: mx.array, ranks: mx.array, top_p: mx.array | None) -> mx.array:
    """The lowest logit that `top_p` and `top_k` keep, of shape [rows, 1]; ties are all kept.

    `ranks` and `top_p` have the shape [rows, 1]; a `top_p` of None is 1 in all rows.
    """
    ascending = mx.sort(logits, axis=-1)
    kth = mx.take_along_axis(ascending, logits.shape[-1] - ranks, axis=-1)
    if top_p is None:
        return kth
    weights = mx.exp(ascending - ascending[:, -1:])
    weight_above = mx.cumsum(weights, axis=-1, reverse=True, inclusive=False)
    total = weight_above[:, :1] + weights[:, :1]
    dropped = mx.sum(weight_above >= top_p * total, axis=-1, keepdims=True)
    nucleus = mx.take_along_axis(ascending, dropped, axis=-1)
    return mx.maximum(kth, mx.where(top_p < 1, nucleus, -math.inf))


def ranks_of(samplings: Sequence[Sampling], vocabulary: int) -> mx.array:
    """How many tokens each row's `top_k` keeps, of shape [rows, 1]."""
    return mx.array([[min(each.top_k, vocabulary) or vocabulary] for each in samplings])


def top_p_of(samplings: Sequence[Sampling]) -> mx.array | None:
    """Each row's `top_p`, of shape [rows, 1]; None where all are off."""
    if all(sampling.top_p >= 1 for sampling in samplings):
        return None
    return as_column(sampling.top_p for sampling in samplings)


def take_rows(logits: mx.array, indices: Sequence[int]) -> mx.array:
    """These rows of the logits; the same array where they are all rows."""
    return logits if len(indices) == logits.shape[0] else logits[mx.array(list(indices))]


def as_column(values: Iterable[float]) -> mx.array:
    """One number for each row, of shape [rows, 1]."""
    return mx.array(list(values), mx.float32)[:, None]


def log_or_minus_inf(value: float) -> float:
    """The logarithm; -inf at 0."""
    return math.log(value) if value > 0 else -math.inf


def draw_key(seed: int, position: int) -> tuple[int, int]:
    """MLX's random key, two words of 32 bits, for one draw (SplitMix64, Steele et al. 2014)."""
    mixed = mix_64(mix_64(seed & MASK_64) + position * WEYL_INCREMENT)
    return mixed >> WORD_BITS, mixed & MASK_32


def mix_64(value: int) -> int:
    """SplitMix64's output for the state that follows `value`."""
    value = (value + WEYL_INCREMENT) & MASK_64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK_64
    return value ^ (value >> 31)
