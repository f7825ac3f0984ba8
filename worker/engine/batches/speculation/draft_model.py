"""A smaller model with the same vocabulary, which continues the texts of rows: drafts of a model.

All rows are one batch with a cache for plain attention. A row's text is computed in parts, alone,
before it joins. Then a draft begins with the tokens that the row has got since the last one, of
which rows have unlike numbers; what is computed behind them, and what was guessed wrongly, leaves
the cache. The device is read once a draft.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, make_prompt_cache

from protocol.model_states import DraftModelFacts
from worker.drafts.source import Text
from worker.engine.batches.row_positions import RowPositions
from worker.engine.batches.row_slots import RowSlots
from worker.engine.batches.slot_cache import (
    SlotKVCache,
    drop_tokens,
    extend_layers,
    filter_layers,
    share_positions,
)
from worker.engine.batches.slot_room import SlotRoom
from worker.engine.stopwatch import Stopwatch, moving_average
from worker.memory.kv_cost import KVCost, probe

# The tokens of a part of a text: those of the first, before its time is known, and the most.
FIRST_PART_TOKENS, MAX_PART_TOKENS = 16, 512
# The most tokens of a row that are computed together with other rows.
MAX_JOINT_TOKENS = 16


@dataclass(slots=True)
class DraftedRow:
    """How much of a text is in the caches: its first `length` tokens, and behind them `guesses`.

    Before the row joins the batch, its `layers` are its own.
    """

    text: Text
    length: int = 0
    guesses: list[int] = field(default_factory=list)
    layers: list[Any] | None = None

    def missing(self) -> Sequence[int]:
        """The tokens that are not computed; `guesses` are settled."""
        return self.text.read()[self.length :]

    def settle(self) -> int:
        """Keep the guesses that the text has; the number of the others, which are dropped."""
        right = 0
        missing = self.missing()
        for guess, token in zip(self.guesses, missing, strict=False):
            if guess != token:
                break
            right += 1
        # The last token is computed again: its logits are needed.
        right = max(min(right, len(missing) - 1), 0)
        wrong = len(self.guesses) - right
        self.length += right
        self.guesses = []
        return wrong


class DraftModel:
    """The model and its rows. `vocabulary_size` is that of the model that it drafts for."""

    def __init__(self, model: nn.Module, vocabulary_size: int, name: str = "") -> None:
        """Nothing is computed.

        Raises:
            ValueError: its caches cannot be cut at any token, as they must be.
        """
        if not all(type(layer) is KVCache for layer in make_prompt_cache(model)):
            raise ValueError("a draft model needs plain attention in all of its layers")
        self._model = model
        self._name = name
        self._vocabulary_size = vocabulary_size
        # Nothing is computed for its shape.
        self._known_tokens: int = model(mx.zeros((1, 1), mx.uint32)).shape[-1]
        # By the identity of their texts. Those that have joined are in the order of their slots.
        self._waiting: dict[int, DraftedRow] = {}
        self._joined: dict[int, DraftedRow] = {}
        self._layers: list[Any] = []
        self._room = SlotRoom()
        self._pass_s = self._token_s = 0.0
        self.kv_cost: KVCost = probe(model, MAX_PART_TOKENS)

    @property
    def weights(self) -> list[mx.array]:
        """Its weights, which are read lazily."""
        return [array for _, array in tree_flatten(self._model.parameters())]

    @property
    def facts(self) -> DraftModelFacts:
        """What the service knows of it."""
        return DraftModelFacts(self._name, sum(array.nbytes for array in self.weights))

    def __len__(self) -> int:
        return len(self._waiting) + len(self._joined)

    # ------------------------------------------------------------ BatchSource

    def pass_s(self) -> float:
        """The seconds of a pass; 0 before one is measured."""
        return self._pass_s

    def measure(self) -> None:
        """Measure a pass and a part of a text; the first ones may compile kernels."""
        text = FixedText([0] * (FIRST_PART_TOKENS + 1))
        for _ in range(2):
            self._pass_s = self._token_s = 0.0
            self.prepare(text, 0.0)
            self.propose([text], 2)
            self.release(text)

    def is_ready(self, text: Text) -> bool:
        """Whether the row has joined the batch."""
        return id(text) in self._joined

    def prepare(self, text: Text, seconds: float) -> None:
        """Compute a part of a text; the row joins the batch with the last one."""
        row = self._waiting.setdefault(id(text), DraftedRow(text))
        if row.layers is None:
            row.layers = make_prompt_cache(self._model)
        tokens = self._part_tokens(seconds)
        part = row.missing()[:-1][:tokens]
        if part:
            stopwatch = Stopwatch()
            self._model(mx.array([self._known(part)]), cache=row.layers)
            mx.eval([layer.state for layer in row.layers])
            self._token_s = moving_average(self._token_s, stopwatch.read_s() / len(part))
            row.length += len(part)
        if len(row.missing()) <= MAX_JOINT_TOKENS:
            self._join(row)

    def propose(self, texts: Sequence[Text], count: int) -> list[list[int]]:
        """The next `count` tokens of each text; all have joined."""
        stopwatch = Stopwatch()
        rows = list(self._joined.values())
        self._drop([row.settle() for row in rows])
        wanted = {id(text) for text in texts}
        asked = [id(row.text) in wanted for row in rows]
        drawn = [self._catch_up(rows, asked)]
        for _ in range(count - 1):
            drawn.append(self._draw(self._compute(drawn[-1][:, None])[:, 0]))
        guesses: list[list[int]] = mx.stack(drawn, axis=1).tolist()  # type: ignore[assignment]
        self._drop([0 if each else count - 1 for each in asked])
        for row, each, is_asked in zip(rows, guesses, asked, strict=True):
            row.guesses = each[:-1] if is_asked else []
        self._pass_s = moving_average(self._pass_s, stopwatch.read_s() / count)
        by_text = {id(row.text): each for row, each in zip(rows, guesses, strict=True)}
        return [by_text[id(text)] for text in texts]

    def release(self, text: Text) -> None:
        """Free a row."""
        self._waiting.pop(id(text), None)
        if id(text) not in self._joined:
            return
        keep = [slot for slot, each in enumerate(self._joined) if each != id(text)]
        del self._joined[id(text)]
        if keep:
            filter_layers(self._layers, keep, self._room.max_share)
        else:
            self._layers = []
        self._note_arrays()

    @property
    def slack_bytes(self) -> int:
        """The bytes of the batch's arrays beyond those that its rows need."""
        return self._room.slack_bytes(len(self._joined))

    def grow_within(self, spare_bytes: Callable[[], int]) -> None:
        """Let the arrays have more room where the memory budget has these bytes to spare."""
        self._room.spare_bytes = spare_bytes

    def squeeze(self) -> None:
        """Give up the slack, which copies the rows."""
        self._room.squeeze(self._layers, self._slots)

    # ------------------------------------------------------------ passes

    def _part_tokens(self, seconds: float) -> int:
        if not self._token_s:
            return FIRST_PART_TOKENS
        return min(max(int(seconds / self._token_s), FIRST_PART_TOKENS), MAX_PART_TOKENS)

    def _join(self, row: DraftedRow) -> None:
        assert row.layers is not None
        positions = RowPositions([0])
        layers = [SlotKVCache(*as_held(layer), row.length, positions) for layer in row.layers]
        del self._waiting[id(row.text)]
        row.layers = None
        slots = self._slots
        [slot] = slots.add(1)
        if slot:
            # The last tokens of the other rows, which may be guesses, stay the last ones.
            extend_layers(self._layers, layers, [slot], self._room.slots_for(slots))
        else:
            self._layers = layers
        self._joined[id(row.text)] = row
        self._note_arrays()

    @property
    def _slots(self) -> RowSlots:
        """The slots of the rows that have joined: the first ones, in their order."""
        return RowSlots(len(self._joined))

    def _note_arrays(self) -> None:
        share_positions(self._layers)
        self._room.note(self._layers)

    def _catch_up(self, rows: Sequence[DraftedRow], asked: Sequence[bool]) -> mx.array:
        """Compute what the rows that are asked miss; the first guess of each: [slots]."""
        longest = max(len(row.missing()) for row, each in zip(rows, asked, strict=True) if each)
        for _ in range((longest - 1) // MAX_JOINT_TOKENS):
            # Rows that miss few tokens wait for the last pass.
            parts = [
                row.missing()[:-MAX_JOINT_TOKENS] if each else []
                for row, each in zip(rows, asked, strict=True)
            ]
            self._append(rows, [part[:MAX_JOINT_TOKENS] for part in parts])
        parts = [row.missing() if each else [] for row, each in zip(rows, asked, strict=True)]
        logits = self._append(rows, parts)
        last = mx.array([max(len(part) - 1, 0) for part in parts])
        return self._draw(logits[mx.arange(len(rows)), last])

    def _append(self, rows: Sequence[DraftedRow], parts: Sequence[Sequence[int]]) -> mx.array:
        """Compute these tokens of each row; the logits: [slots, tokens, vocabulary]."""
        width = max(map(len, parts))
        padded = [[*self._known(part), *[0] * (width - len(part))] for part in parts]
        logits = self._compute(mx.array(padded))
        self._drop([width - len(part) for part in parts])
        for row, part in zip(rows, parts, strict=True):
            row.length += len(part)
        return logits

    def _known(self, tokens: Sequence[int]) -> list[int]:
        """The tokens, with any other for those that this model has not."""
        return [token if token < self._known_tokens else 0 for token in tokens]

    def _compute(self, tokens: mx.array) -> mx.array:
        """The logits behind these tokens of each slot."""
        self._room.make_place(self._layers, self._slots, tokens.shape[1])
        logits: mx.array = self._model(tokens, cache=self._layers)
        return logits

    def _draw(self, logits: mx.array) -> mx.array:
        """The most likely tokens, of those that the other model has."""
        return mx.argmax(logits[:, : self._vocabulary_size], axis=-1)

    def _drop(self, dropped: Sequence[int]) -> None:
        if any(dropped) and drop_tokens(self._layers, dropped):
            self._room.note(self._layers)


@dataclass(frozen=True, slots=True)
class FixedText:
    """A text that does not grow."""

    tokens: Sequence[int]

    def read(self) -> Sequence[int]:
        """All tokens."""
        return self.tokens


def as_held(layer: KVCache) -> tuple[mx.array | None, mx.array | None]:
    """The keys and values of a cache, without its room."""
    if layer.keys is None:
        return None, None
    return layer.keys[:, :, : layer.offset], layer.values[:, :, : layer.offset]
