"""Whether passes over several places give what passes over one place give, by their sizes.

Devices choose their kernels by the rows and places of a pass, and by the tokens before them, and
kernels round differently. Only one prompt is computed: the keys and values of longer ones, and of
more rows, are copies of it. What they mean is of no matter, as both kinds of passes have the same.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from worker.engine.batches.model_errors import MODEL_ERRORS, describe_error
from worker.engine.batches.row_positions import RowPositions
from worker.engine.batches.slot_cache import to_slots
from worker.engine.batches.speculation.draft_plan import MAX_DRAFT_TOKENS
from worker.engine.engine import Engine
from worker.engine.token_logprobs import to_logprobs
from worker.memory.kv_cost import KVCost
from worker.selfcheck.scored_rows import TOP_COUNT, difference

MOST_PLACES = MAX_DRAFT_TOKENS + 1
NEAR_TOKENS = 40
# Metal's attention has another kernel from 1,024 tokens on, or from 4,096 on where the device is
# small and heads share keys (MLX 0.32).
FAR_TOKENS, MAX_FAR_BYTES = 4200, 1 << 30
# How much shorter each row is than the one before it: rows of unlike lengths need masks.
STAGGER_TOKENS = 3


@dataclass(frozen=True, slots=True)
class PassSizes:
    """Passes of the first of `rows` rows, by their rows and places.

    The first row has `tokens` tokens. What is expected comes from passes over one place of all.
    """

    rows: int
    tokens: int
    passes: Sequence[tuple[int, int]]


# Each number of places is tried for a row alone. The largest comes first: it is the likeliest to
# differ.
OF_ONE_ROW = tuple((1, places) for places in range(MOST_PLACES, 1, -1))
FEWER_PLACES = {8: 2, 4: 3, 3: 4, 2: 2}
OF_ROWS = tuple((rows, n) for rows, few in FEWER_PLACES.items() for n in (MOST_PLACES, few))
NEAR_SIZES = (PassSizes(1, NEAR_TOKENS, OF_ONE_ROW), PassSizes(8, NEAR_TOKENS, OF_ROWS))


def choose_sizes(cost: KVCost, context_tokens: int | None) -> list[PassSizes]:
    """The sizes that are tried of a model with these caches and context; None is no bound."""
    longest = FAR_TOKENS + MOST_PLACES
    if context_tokens is not None:
        longest = min(longest, context_tokens)
    far = cost.longest_within(MAX_FAR_BYTES, longest) - MOST_PLACES
    is_longer = far > NEAR_TOKENS
    return [*NEAR_SIZES, *([PassSizes(1, far, OF_ONE_ROW)] if is_longer else [])]


def check_sizes(
    engine: Engine, prompt: list[int], tokens: list[int], bound: float, sizes: Sequence[PassSizes]
) -> Generator[None, None, str]:
    """What rounds otherwise by more than `bound`; empty if nothing does. A pass is a step.

    All layers are of plain attention. `prompt` has `NEAR_TOKENS`, and `tokens` are the
    `MOST_PLACES` behind it.
    """
    where = "one row alone"
    try:
        caches = engine.quantisation.make_caches(engine.model)
        mx.eval(engine.model(mx.array([prompt]), cache=caches))
        yield
        for size in sizes:
            where = f"rows: {size.rows}, places: 1, behind {size.tokens} tokens"
            trial = SizedPasses(engine, caches, size, tokens)
            yield from trial.decode()
            for rows, places in size.passes:
                where = f"rows: {rows}, places: {places}, behind {size.tokens} tokens"
                worst = trial.compare(rows, places)
                yield
                if not worst <= bound:
                    return (
                        f"a pass over several places rounds otherwise: log-probabilities differ "
                        f"by {worst:.2g} (at most {bound:g} is allowed); {where}"
                    )
    except MODEL_ERRORS as error:
        return f"the model fails: {describe_error(error)}; {where}"
    return ""


class SizedPasses:
    """Passes over the same tokens, of rows that end at the same token."""

    def __init__(
        self, engine: Engine, caches: Sequence[Any], size: PassSizes, tokens: Sequence[int]
    ) -> None:
        self._model = engine.model
        self._caches = caches
        self._size = size
        self._tokens = mx.array([tokens] * size.rows)
        self._expected = mx.array([])
        self._rows, self._layers = 0, list[Any]()

    def decode(self) -> Generator[None, None, None]:
        """Compute the tokens of all rows, one place at a time: what is expected."""
        layers = self._layers_of(self._size.rows)
        logits: list[mx.array] = []
        for place in range(self._tokens.shape[1]):
            logits.append(self._model(self._tokens[:, place : place + 1], cache=layers))
            mx.eval(logits[-1])
            yield
        self._expected = to_logprobs(mx.concatenate(logits, axis=1))

    def compare(self, rows: int, places: int) -> float:
        """The largest difference of a pass of the first rows from what is expected."""
        layers = self._layers_of(rows)
        logprobs = to_logprobs(self._model(self._tokens[:rows, :places], cache=layers))
        expected = self._expected[:rows, :places]
        count = min(TOP_COUNT, expected.shape[-1])
        likely = mx.argpartition(-expected, count - 1, axis=-1)[..., :count]
        pairs = (mx.take_along_axis(each, likely, axis=-1) for each in (expected, logprobs))
        one, other = (np.array(each).ravel() for each in pairs)
        return max(map(difference, map(float, one), map(float, other)))

    def _layers_of(self, rows: int) -> list[Any]:
        """The layers of the first rows; the same again for as many rows."""
        if rows != self._rows:
            positions = RowPositions(row * STAGGER_TOKENS for row in range(rows))
            self._layers = repeat_layers(self._caches, self._size.tokens, positions)
            self._rows = rows
        for layer in self._layers:
            layer.end = self._size.tokens
        return self._layers


def repeat_layers(caches: Sequence[Any], tokens: int, positions: RowPositions) -> list[Any]:
    """The layers of rows that end at this token, with the keys and values of one sequence."""
    layers = to_slots([cache.merge([cache]) for cache in caches])
    for layer in layers:
        keys, values = layer.keys[:, :, : layer.end], layer.values[:, :, : layer.end]
        layer.keys = repeat_array(keys, tokens, positions.paddings)
        layer.values = repeat_array(values, tokens, positions.paddings)
        layer.end, layer.positions = tokens, positions
    return layers


def repeat_array(array: mx.array, tokens: int, paddings: Sequence[int]) -> mx.array:
    """An array of [1, heads, some tokens, width], for each row, with zeros as padding."""
    times = -(-tokens // array.shape[2])
    row = mx.tile(array, (1, 1, times, 1))[:, :, :tokens]
    is_token = mx.arange(tokens) >= mx.array(list(paddings))[:, None]
    return mx.where(is_token[:, None, :, None], row, mx.array(0, array.dtype))
