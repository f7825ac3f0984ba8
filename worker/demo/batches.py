"""Documents to training steps: token ids, what is learnt of them, batches by length.

Documents of like length share a batch, so little is padding; a step takes
several batches from anywhere in the shard, so that it sees every kind of text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from worker.demo import tokenizer as vocabulary
from worker.demo.corpus import mixture
from worker.demo.corpus.document import Document, Passage

BATCH_TOKENS = 2048
BATCHES_PER_STEP = 4
PROMPT_SHARE = 0.1  # of the prompts' tokens is learnt: they are mostly made of chance


@dataclass(frozen=True)
class Sample:
    """One document: ids, and for each id whether it is the assistant's."""

    kind: str
    ids: list[int]
    answered: list[bool]


@dataclass(frozen=True)
class Batch:
    """Inputs [batch, length], and the places in it, flattened, that have a target to learn."""

    inputs: Tensor
    places: Tensor
    targets: Tensor
    tokens: int


def encode(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> list[Sample]:
    """Token ids of all documents that fit the context."""
    texts = [vocabulary.render(tokenizer, document) for document in documents]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    marks = _Marker(tokenizer)
    return [
        Sample(d.kind, ids, [True] * len(ids) if isinstance(d, Passage) else marks(ids))
        for d, ids in zip(documents, rows, strict=True)
        if len(ids) <= vocabulary.CONTEXT_TOKENS
    ]


class _Marker:
    """Tells the assistant's turns, their last token included, from the rest."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        header = f"{vocabulary.BEGIN_HEADER}assistant{vocabulary.END_HEADER}\n\n"
        self._header: list[int] = tokenizer.encode(header, add_special_tokens=False)
        self._end = tokenizer.convert_tokens_to_ids(vocabulary.END_TURN)

    def __call__(self, ids: list[int]) -> list[bool]:
        marks, inside, size = [], False, len(self._header)
        for place, token in enumerate(ids):
            marks.append(inside)
            if token == self._end:
                inside = False
            elif ids[place + 1 - size : place + 1] == self._header:
                inside = True
        return marks


def collate(samples: Sequence[Sample], rng: random.Random) -> Batch:
    """Pad to the longest; `rng` picks the tokens of the prompts that are learnt."""
    length = max(len(s.ids) for s in samples)
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    learnt = torch.zeros(len(samples), length, dtype=torch.bool)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        picked = [answered or rng.random() < PROMPT_SHARE for answered in sample.answered]
        learnt[row, : len(sample.ids)] = torch.tensor(picked)
    places = learnt[:, 1:].flatten().nonzero().flatten()
    targets = ids[:, 1:].flatten()[places]
    return Batch(ids[:, :-1], places, targets, sum(len(s.ids) for s in samples))


def group(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Samples by length, each group at most `BATCH_TOKENS` with its padding."""
    pending: list[Sample] = []
    for sample in sorted(samples, key=lambda s: len(s.ids)):
        if pending and len(sample.ids) * (len(pending) + 1) > BATCH_TOKENS:
            yield pending
            pending = []
        pending.append(sample)
    if pending:
        yield pending


def steps(tokenizer: PreTrainedTokenizerFast, seed: int, shard: int) -> list[list[Batch]]:
    """The training steps of one shard; a pure function of its arguments."""
    rng = random.Random(f"order {seed} {shard}")
    batches = [collate(g, rng) for g in group(encode(tokenizer, mixture.shard(seed, shard)))]
    rng.shuffle(batches)
    starts = range(0, len(batches) - BATCHES_PER_STEP + 1, BATCHES_PER_STEP)
    return [batches[start : start + BATCHES_PER_STEP] for start in starts]
