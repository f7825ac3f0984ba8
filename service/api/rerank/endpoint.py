"""POST /v1/rerank: documents in the order of their relevance to a query."""

from __future__ import annotations

import uuid

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from protocol.embedding import Embed
from service.generation.submitter import Submitter
from service.generation.vectors import collect_vectors, to_numbers
from service.http.json_io import json_response
from service.schema.rerank import (
    DocumentText,
    RerankRequest,
    RerankResponse,
    RerankResult,
    RerankUsage,
)

OPERATION = "rerank"


class RerankEndpoint:
    """Scores the documents of requests."""

    def __init__(self, submitter: Submitter) -> None:
        self._submitter = submitter

    async def create(self, http_request: Request) -> Response:
        """The most relevant documents, the first ones first."""
        request = await self._submitter.read(http_request, RerankRequest)
        model = self._submitter.resolve(request.model, "rerank")
        texts = request.texts
        embed = Embed(
            id=0,
            model=model,
            prompt=msgspec.Raw(msgspec.msgpack.encode(texts)),
            param="documents",
            query=request.query,
            priority=request.priority or 0,
        )
        inflight = await self._submitter.embed(http_request, embed, operation=OPERATION)
        vectors = await collect_vectors(inflight, len(texts))
        scores = [to_numbers(row)[0] for row in vectors.rows]
        response = RerankResponse(
            id=f"rerank-{uuid.uuid4().hex}",
            model=model,
            results=to_results(request, scores),
            usage=RerankUsage(vectors.prompt_tokens, vectors.prompt_tokens, vectors.use),
        )
        return json_response(response)


def to_results(request: RerankRequest, scores: list[float]) -> list[RerankResult]:
    """The results by score; documents of the same score keep their order."""
    texts = request.texts
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [
        RerankResult(
            index=index,
            relevance_score=scores[index],
            document=DocumentText(texts[index]) if request.return_documents else UNSET,
        )
        for index in order[: request.top_n]
    ]
