"""Documents to training steps: token ids, what is learnt of them, batches by length.

Documents of like length share a batch, so little is padding; a step takes
several batches from anywhere in the shard, so that it sees every kind of text.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from worker.demo.training import tokenizer as vocabulary
from worker.demo.training.corpus import mixture
from worker.demo.training.corpus.document import Document, Passage

BATCH_TOKENS = 2048
BATCHES_PER_STEP = 2
# Of the prompts' tokens these shares are learnt. Most are made of chance; a pair of tokens that
# the document has held before is not, and to foresee it is to copy.
PROMPT_SHARE = 0.03
REPEATED_SHARE = 0.5
# In the last shards, what follows a quotation mark in an answer counts several times: it chooses
# the tool, the key or the value that the tokens after it only spell.
CHOICES_FROM_SHARD = 43
CHOICE_SHARE = 4.0


@dataclass(frozen=True)
class Sample:
    """One document: ids, and for each id whether it is the assistant's and how often learnt."""

    kind: str
    ids: list[int]
    answered: list[bool]
    shares: list[float]


@dataclass(frozen=True)
class Batch:
    """Inputs [batch, length], and the places in it, flattened, that have a target to learn."""

    inputs: Tensor
    places: Tensor
    targets: Tensor
    tokens: int


def encode(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document], choice: float = 1.0
) -> list[Sample]:
    """Token ids of all documents that fit the context; `choice` is how often a choice is learnt."""
    texts = [vocabulary.render(tokenizer, document) for document in documents]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    marks = _Marker(tokenizer)
    vocabulary_ids = tokenizer.get_vocab().items()
    choices = {number: choice for text, number in vocabulary_ids if text.endswith('"')}
    return [
        _sample(d, ids, [True] * len(ids) if isinstance(d, Passage) else marks(ids), choices)
        for d, ids in zip(documents, rows, strict=True)
        if len(ids) <= vocabulary.CONTEXT_TOKENS
    ]


def _sample(
    document: Document, ids: list[int], answered: list[bool], choices: dict[int, float]
) -> Sample:
    """`choices` are the tokens that a choice follows, and how often it is then learnt."""
    seen: set[tuple[int, int]] = set()
    shares = []
    for pair, is_answer in zip(pairwise([-1, *ids]), answered, strict=True):
        repeated = REPEATED_SHARE if pair in seen else PROMPT_SHARE
        shares.append(choices.get(pair[0], 1.0) if is_answer else repeated)
        seen.add(pair)
    return Sample(document.kind, ids, answered, shares)


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
    times = torch.zeros(len(samples), length, dtype=torch.long)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        picked = [max(int(share), int(rng.random() < share)) for share in sample.shares]
        times[row, : len(sample.ids)] = torch.tensor(picked)
    counts = times[:, 1:].flatten()
    places = torch.arange(len(counts)).repeat_interleave(counts)
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
    choice = CHOICE_SHARE if shard >= CHOICES_FROM_SHARD else 1.0
    samples = encode(tokenizer, mixture.shard(seed, shard), choice)
    batches = [collate(g, rng) for g in group(samples)]
    rng.shuffle(batches)
    starts = range(0, len(batches) - BATCHES_PER_STEP + 1, BATCHES_PER_STEP)
    return [batches[start : start + BATCHES_PER_STEP] for start in starts]
