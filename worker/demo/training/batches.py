"""Turns documents into training steps: token ids, the weight of each token, batches by length.

A batch has documents of similar length, so it has little padding. A step has several
batches from anywhere in the shard, so it sees different kinds of text.
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
# Weights of prompt tokens. Most prompt tokens are random. A token that completes a pair which
# occurs earlier in the document is not: to predict it is to copy.
PROMPT_WEIGHT = 0.03
REPEATED_WEIGHT = 0.5
# In the last shards, the token after a quotation mark in an answer has a higher weight: it selects
# the tool, the key or the value, and the tokens after it only complete that.
CHOICES_FROM_SHARD = 43
CHOICE_WEIGHT = 4.0


@dataclass(frozen=True)
class Sample:
    """One document: ids, and for each id whether it is part of an answer and its weight.

    A weight below 1 is the probability that the id is a target. From 1 on, its integer part is
    how often the id is one.
    """

    kind: str
    ids: list[int]
    in_answer: list[bool]
    weights: list[float]


@dataclass(frozen=True)
class Batch:
    """Inputs [batch, length], and the targets with their positions in the flattened inputs.

    `tokens` counts the inputs without padding.
    """

    inputs: Tensor
    positions: Tensor
    targets: Tensor
    tokens: int


def encode(
    tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document], choice_weight: float = 1.0
) -> list[Sample]:
    """The documents that fit the context; `choice_weight` is that of tokens after a quote."""
    texts = [vocabulary.render(tokenizer, document) for document in documents]
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    find_answers = _AnswerFinder(tokenizer)
    vocabulary_ids = tokenizer.get_vocab().items()
    choices = {id_: choice_weight for text, id_ in vocabulary_ids if text.endswith('"')}
    return [
        _sample(d, ids, [True] * len(ids) if isinstance(d, Passage) else find_answers(ids), choices)
        for d, ids in zip(documents, rows, strict=True)
        if len(ids) <= vocabulary.CONTEXT_TOKENS
    ]


def _sample(
    document: Document, ids: list[int], in_answer: list[bool], choices: dict[int, float]
) -> Sample:
    """`choices` has the tokens that end with a quote, and the weight of a token after them."""
    seen: set[tuple[int, int]] = set()
    weights = []
    for pair, is_answer in zip(pairwise([-1, *ids]), in_answer, strict=True):
        prompt_weight = REPEATED_WEIGHT if pair in seen else PROMPT_WEIGHT
        weights.append(choices.get(pair[0], 1.0) if is_answer else prompt_weight)
        seen.add(pair)
    return Sample(document.kind, ids, in_answer, weights)


class _AnswerFinder:
    """Finds the tokens of the assistant's turns, including the last token of each turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        header = f"{vocabulary.BEGIN_HEADER}assistant{vocabulary.END_HEADER}\n\n"
        self._header: list[int] = tokenizer.encode(header, add_special_tokens=False)
        self._end = tokenizer.convert_tokens_to_ids(vocabulary.END_TURN)

    def __call__(self, ids: list[int]) -> list[bool]:
        in_answer, inside, size = [], False, len(self._header)
        for index, token in enumerate(ids):
            in_answer.append(inside)
            if token == self._end:
                inside = False
            elif ids[index + 1 - size : index + 1] == self._header:
                inside = True
        return in_answer


def collate(samples: Sequence[Sample], rng: random.Random) -> Batch:
    """Pad to the longest; `rng` selects the tokens of the prompts that are targets."""
    length = max(len(s.ids) for s in samples)
    ids = torch.zeros(len(samples), length, dtype=torch.long)
    times = torch.zeros(len(samples), length, dtype=torch.long)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = torch.tensor(sample.ids)
        drawn = [max(int(weight), int(rng.random() < weight)) for weight in sample.weights]
        times[row, : len(sample.ids)] = torch.tensor(drawn)
    counts = times[:, 1:].flatten()
    positions = torch.arange(len(counts)).repeat_interleave(counts)
    return Batch(
        inputs=ids[:, :-1],
        positions=positions,
        targets=ids[:, 1:].flatten()[positions],
        tokens=sum(len(s.ids) for s in samples),
    )


def group(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Samples in groups of similar length, at most `BATCH_TOKENS` each, padding included."""
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
    choice_weight = CHOICE_WEIGHT if shard >= CHOICES_FROM_SHARD else 1.0
    samples = encode(tokenizer, mixture.shard(seed, shard), choice_weight)
    batches = [collate(g, rng) for g in group(samples)]
    rng.shuffle(batches)
    starts = range(0, len(batches) - BATCHES_PER_STEP + 1, BATCHES_PER_STEP)
    return [batches[start : start + BATCHES_PER_STEP] for start in starts]
