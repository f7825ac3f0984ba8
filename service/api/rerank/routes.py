"""The row of the route table for reranking."""

from __future__ import annotations

from service.api.rerank.endpoint import RerankEndpoint
from service.generation.submitter import Submitter
from service.openapi.descriptions import describe_pooling
from service.openapi.operation import Operation
from service.schema.rerank import RerankRequest, RerankResponse


def list_rerank_operations(submitter: Submitter) -> list[Operation]:
    """The endpoint that orders documents."""
    return [
        Operation(
            "POST",
            "/v1/rerank",
            RerankEndpoint(submitter).create,
            describe_pooling(
                "rerank",
                "Order documents by their relevance to a query.",
                request=RerankRequest,
                response=RerankResponse,
            ),
            aliases=("/rerank", "/v2/rerank"),
            kind="rerank",
            request=RerankRequest,
            schemas=(RerankResponse,),
        )
    ]
