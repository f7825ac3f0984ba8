"""POST /v1/embeddings: the vectors of texts."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from protocol.embedding import Embed
from service.errors import JSON_MEDIA_TYPE, InvalidRequest
from service.generation.submitter import Submitter
from service.generation.vectors import (
    NUMBER_CHARS,
    VALUE_BYTES,
    Vectors,
    collect_vectors,
    encode_base64,
    encode_numbers,
)
from service.http.body_budget import SMALL_BODY_BYTES
from service.schema.embeddings import (
    Embedding,
    EmbeddingList,
    EmbeddingsRequest,
    EmbeddingUsage,
)

OPERATION = "embeddings"
# Token ids of another vocabulary are other words: those of OpenAI's are what clients send.
TOKENS_REFUSED = (
    "`input` has token ids, which are those of OpenAI's tokenizer: send texts. With LangChain set "
    'check_embedding_ctx_length=False. The setting embedding_token_ids = "accept" takes ids of '
    "this model's own vocabulary."
)
# The values are in memory as they arrive, and by text; and twice in the encoded answer.
COPIES = 2


class EmbeddingsEndpoint:
    """Embeds the texts of requests; with `accepts_tokens` also token ids."""

    def __init__(self, submitter: Submitter, *, accepts_tokens: bool) -> None:
        self._submitter = submitter
        self._accepts_tokens = accepts_tokens

    async def create(self, http_request: Request) -> Response:
        """The vectors of a text or of several."""
        request = await self._submitter.read(http_request, EmbeddingsRequest)
        model = self._submitter.resolve(request.model, "embedding")
        if request.has_tokens and not self._accepts_tokens:
            raise InvalidRequest(TOKENS_REFUSED, param="input", code="invalid_type")
        texts = request.texts
        embed = Embed(
            id=0,
            model=model,
            prompt=msgspec.Raw(msgspec.msgpack.encode(texts)),
            dimensions=request.dimensions,
            input_type=request.input_type,
            priority=request.priority or 0,
        )
        inflight = await self._submitter.embed(http_request, embed, operation=OPERATION)
        vectors = await collect_vectors(inflight, len(texts))
        is_base64 = request.encoding_format == "base64"
        answer_bytes = answer_bytes_of(vectors, is_base64=is_base64)
        if answer_bytes <= SMALL_BODY_BYTES:
            return to_response(encode_answer(vectors, model, is_base64=is_base64))
        reader = http_request.state.request_reader
        await reader.reserve(embed.nbytes + COPIES * (vectors.nbytes + answer_bytes))
        # Text by text, so that other threads run in between.
        body = await asyncio.to_thread(encode_answer, vectors, model, is_base64=is_base64)
        return to_response(body)


def answer_bytes_of(vectors: Vectors, *, is_base64: bool) -> int:
    """The size of an answer, rather too much than too little."""
    if is_base64:
        return vectors.nbytes * 4 // 3
    return vectors.nbytes // VALUE_BYTES * NUMBER_CHARS


def encode_answer(vectors: Vectors, model: str, *, is_base64: bool) -> bytes:
    """The body of an answer."""
    encode = encode_base64 if is_base64 else encode_numbers
    data = [
        Embedding(index=index, embedding=embed_json(encode(row)))
        for index, row in enumerate(vectors.rows)
    ]
    usage = EmbeddingUsage(vectors.prompt_tokens, vectors.prompt_tokens, vectors.use)
    return msgspec.json.encode(EmbeddingList(data=data, model=model, usage=usage))


def embed_json(json: bytes) -> Any:
    """A value that is JSON already, for a field of a response."""
    return msgspec.Raw(json)


def to_response(body: bytes) -> Response:
    """A response with this body."""
    return Response(body, media_type=JSON_MEDIA_TYPE)
