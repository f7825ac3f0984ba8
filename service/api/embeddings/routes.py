"""The row of the route table for embeddings."""

from __future__ import annotations

from service.api.embeddings.endpoint import EmbeddingsEndpoint
from service.generation.submitter import Submitter
from service.openapi.descriptions import describe_pooling
from service.openapi.operation import Operation
from service.schema.embeddings import EmbeddingList, EmbeddingsRequest


def list_embedding_operations(submitter: Submitter, *, accepts_tokens: bool) -> list[Operation]:
    """The endpoint that embeds texts; with `accepts_tokens` also token ids."""
    endpoint = EmbeddingsEndpoint(submitter, accepts_tokens=accepts_tokens)
    return [
        Operation(
            "POST",
            "/v1/embeddings",
            endpoint.create,
            describe_pooling(
                "createEmbedding",
                "Compute the vectors of texts.",
                request=EmbeddingsRequest,
                response=EmbeddingList,
            ),
            aliases=("/embeddings",),
            kind="embedding",
            request=EmbeddingsRequest,
            schemas=(EmbeddingList,),
        )
    ]
