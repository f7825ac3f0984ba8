"""A loaded embedding model or reranker: rows of token ids to vectors or to scores.

A broken model gives values that are not finite: `embed` and `score` keep them so, for whoever
evaluates the result to refuse them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from worker.embedding.call_memory import CallMemory, call_memory_of
from worker.embedding.encoders.modules import RowModules, build_modules
from worker.embedding.facts import EmbeddingFacts
from worker.embedding.pooling import normalise, pool
from worker.folder.json_values import read_object

PADDING_TOKEN = 0


class EmbeddingModel:
    """One loaded model. Its results are lazy: the caller evaluates them, in one device call."""

    def __init__(self, facts: EmbeddingFacts, modules: RowModules, memory: CallMemory) -> None:
        self.facts = facts
        self._modules = modules
        self._memory = memory

    @property
    def modules(self) -> RowModules:
        """What computes the results."""
        return self._modules

    def arrays(self) -> list[mx.array]:
        """The weights, which are read when they are evaluated."""
        return [array for _, array in tree_flatten(self._modules.parameters())]

    def embed(self, rows: Sequence[Sequence[int]]) -> mx.array:
        """The vectors [rows, dimensions] in float32, of rows that are not empty.

        Raises:
            ValueError: a row is empty or has more than `max_tokens`.
        """
        ids, lengths = self._pad(rows)
        vectors = pool(self._modules.encoder(ids, lengths), lengths, self.facts.pooling)
        if self._modules.head is not None:
            vectors = self._modules.head(vectors).astype(mx.float32)
        return normalise(vectors) if self.facts.normalised else vectors

    def score(self, rows: Sequence[Sequence[int]]) -> mx.array:
        """The scores [rows] from 0 to 1 in float32, of rows of pairs.

        Raises:
            ValueError: a row is empty or has more than `max_tokens`.
        """
        ids, lengths = self._pad(rows)
        states = self._modules.encoder(ids, lengths)
        if self.facts.answers is None:
            assert self._modules.head is not None
            logits = self._modules.head(states, lengths).astype(mx.float32)
        else:
            logits = self._answer_logits(states, lengths, self.facts.answers)
        # A sigmoid makes a logit that is infinite finite.
        return mx.where(mx.isfinite(logits), mx.sigmoid(logits), mx.nan)

    def cost(self, rows: int, length: int) -> int:
        """The bytes that a call of `rows` rows of `length` tokens takes at most."""
        return self._memory.call_bytes(rows, length)

    def _answer_logits(
        self, states: mx.array, lengths: mx.array, answers: tuple[int, int]
    ) -> mx.array:
        """How much likelier the answer yes is than no, as a logit; [rows]."""
        last = pool(states, lengths, "lasttoken").astype(states.dtype)
        logits = self._modules.encoder.logits(last).astype(mx.float32)
        yes, no = answers
        difference: mx.array = logits[:, yes] - logits[:, no]
        return difference

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[mx.array, mx.array]:
        """The ids [rows, length] with padding behind the shorter rows, and the lengths [rows]."""
        lengths = [len(row) for row in rows]
        if not rows or min(lengths) == 0:
            raise ValueError("there is a row without tokens")
        width = max(lengths)
        if width > self.facts.max_tokens:
            raise ValueError(
                f"a row has {width} tokens, and the model takes {self.facts.max_tokens}"
            )
        padded = [[*row, *[PADDING_TOKEN] * (width - len(row))] for row in rows]
        return mx.array(padded, dtype=mx.int32), mx.array(lengths, dtype=mx.int32)


def load_embedding_model(
    folder: Path, facts: EmbeddingFacts, *, trusted: bool = False
) -> EmbeddingModel:
    """The model of a folder with these facts, its weights not read yet.

    Raises:
        NotAnEmbeddingModel: weights are missing, unknown or of another shape, or the model is
            one that is not computed here.
        Exception: any other error of mlx-lm or MLX.
    """
    config = read_object(folder / "config.json")[0]
    modules = build_modules(folder, config, facts, trusted=trusted)
    return EmbeddingModel(facts, modules, call_memory_of(modules, config))
