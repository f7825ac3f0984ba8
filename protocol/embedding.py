"""The request for vectors or for relevance scores; `protocol.events.Embedded` has its results."""

from __future__ import annotations

from typing import Literal

import msgspec

from protocol.structs import Data, Message

EmbeddingKind = Literal["embedding", "rerank"]
# How a text's vector is made of its tokens' states, by sentence-transformers' names.
Pooling = Literal["cls", "mean", "max", "lasttoken", "mean_sqrt_len_tokens", "weightedmean"]
InputType = Literal["query", "document"]


class EmbeddingSource(Data, frozen=True):
    """What the configuration says of an embedding model or a reranker.

    None leaves it to the model's folder. `matryoshka` are the lengths that its vectors may be cut
    to, `prompts` the texts before a query and before a document.
    """

    kind: EmbeddingKind
    pooling: Pooling | None = None
    normalise: bool | None = None
    matryoshka: list[int] | None = None
    prompts: dict[str, str] | None = None


class Embed(Message, frozen=True):
    """Compute the vector of each text, or with a `query` its relevance; nothing is generated.

    `prompt` is an encoded list of texts, each a string or token ids. `param` is the request's
    parameter that has it, to name it in a rejection. The vectors are cut to `dimensions`. Texts of
    an `input_type` are embedded behind the model's prompt for it. `priority` is that of a `Submit`.
    """

    id: int
    model: str
    prompt: msgspec.Raw
    param: str = "input"
    query: str | None = None
    dimensions: int | None = None
    input_type: InputType | None = None
    client: str = ""
    priority: int = 0

    @property
    def nbytes(self) -> int:
        """The size of the encoded texts."""
        return memoryview(self.prompt).nbytes
