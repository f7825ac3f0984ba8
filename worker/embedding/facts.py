"""What is known of an embedding model or a reranker without its weights."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

Kind = Literal["embedding", "rerank"]
# How a text's vector is made of its tokens' states, by sentence-transformers' names.
Pooling = Literal["cls", "mean", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
# What computes the states: an encoder of this district, or a decoder of mlx-lm.
Architecture = Literal["bert", "roberta", "mpnet", "modernbert", "gemma", "decoder"]


class EmbeddingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's configuration says instead of its folder; None leaves it to the folder.

    `matryoshka` are the shorter lengths that the model's vectors may be cut to, in dimensions.
    """

    kind: Kind | None = None
    pooling: Pooling | None = None
    normalise: bool | None = None
    matryoshka: tuple[int, ...] | None = None
    prompts: dict[str, str] | None = None


class EmbeddingFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of one model.

    `dimensions` is the length of its vectors, 0 for a reranker. `max_tokens` are the tokens of a
    row with those that the tokenizer adds. `prompts` are put before a text, by their names;
    `default_prompt` names the one of requests that name none. `matryoshka` are the lengths that
    its vectors may be cut to; with `any_length` each one may. `separator` is the token that ends
    the first part of a pair, if the model is to know the parts; `answers` are the tokens of "yes"
    and "no" of a reranker that answers so. `problems` are sentences for the log.
    """

    kind: Kind
    family: str
    architecture: Architecture
    dimensions: int
    max_tokens: int
    vocabulary_size: int
    pooling: Pooling
    normalised: bool
    prompts: dict[str, str] = {}
    default_prompt: str | None = None
    similarity: str | None = None
    matryoshka: tuple[int, ...] = ()
    any_length: bool = False
    separator: int | None = None
    answers: tuple[int, int] | None = None
    problems: tuple[str, ...] = ()

    def allows(self, dimensions: int) -> bool:
        """Whether the vectors may be cut to this length."""
        if dimensions == self.dimensions:
            return True
        return 0 < dimensions < self.dimensions and (
            self.any_length or dimensions in self.matryoshka
        )


class NotAnEmbeddingModel(ValueError):
    """A folder that gives no vectors and no scores; the message says why."""
