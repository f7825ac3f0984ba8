"""/v1/rerank: the shapes that Jina's and Cohere's clients share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.errors import InvalidRequest
from service.schema.parameter_table import (
    HONOURED,
    METADATA,
    Parameter,
    refuse_unsupported,
    refused,
)
from service.schema.parameters import Priority
from service.schema.usage import TextsUsage

MAX_DOCUMENTS = 1000


class DocumentText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A document as an object."""

    text: str


Documents = Annotated[
    list[str | DocumentText],
    Meta(min_length=1, max_length=MAX_DOCUMENTS, description="The texts to order by relevance."),
]
ModelName = Annotated[str, Meta(description="The first reranker without it.")]
TopN = Annotated[
    int, Meta(ge=1, description="How many results are returned, the most relevant ones.")
]

PARAMETERS: dict[str, Parameter] = {
    "documents": HONOURED,
    "max_chunks_per_doc": refused(),
    "max_tokens_per_doc": refused(),
    "model": HONOURED,
    "priority": HONOURED,
    "query": HONOURED,
    "rank_fields": refused(["text"]),
    "return_documents": HONOURED,
    "top_n": HONOURED,
    "user": METADATA,
}


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Documents to order by their relevance to a query."""

    parameters: ClassVar[Mapping[str, Parameter]] = PARAMETERS

    query: Annotated[str, Meta(min_length=1)]
    documents: Documents
    model: ModelName | None = None
    top_n: TopN | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: int | None = None
    max_chunks_per_doc: int | None = None
    rank_fields: list[str] | None = None
    user: str | None = None
    priority: Priority | None = None

    @property
    def texts(self) -> list[str]:
        """The texts of the documents, in their order."""
        return [text if isinstance(text, str) else text.text for text in self.documents]

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: a parameter is not supported; the error names it.
        """
        refuse_unsupported(self, self.parameters)
        if not self.query.strip():
            raise InvalidRequest("`query` is blank.", param="query", code="invalid_value")


class RerankResult(msgspec.Struct, frozen=True, kw_only=True):
    """One document: its index in the request, and its relevance from 0 to 1."""

    index: int
    relevance_score: float
    document: DocumentText | UnsetType = UNSET


class RerankUsage(msgspec.Struct, frozen=True):
    """The tokens of all pairs of the query and a document."""

    prompt_tokens: int
    total_tokens: int
    mlxd: TextsUsage


class BilledUnits(msgspec.Struct, frozen=True):
    """What Cohere's clients read of a request."""

    search_units: int = 1


class RerankMeta(msgspec.Struct, frozen=True):
    """The part of an answer that Cohere's clients read."""

    billed_units: BilledUnits = BilledUnits()


class RerankResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The documents, the most relevant first."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[RerankResult]
    usage: RerankUsage
    meta: RerankMeta = RerankMeta()
