"""The row of the route table for chat completions."""

from __future__ import annotations

from service.api.chat.format import ChatFormat
from service.generation.endpoint import GenerationEndpoint
from service.generation.submitter import Submitter
from service.openapi.descriptions import describe_generation
from service.openapi.operation import Operation
from service.schema.chat import ChatCompletion, ChatCompletionChunk, ChatRequest


def list_chat_operations(
    chat_format: ChatFormat, submitter: Submitter, *, keep_alive_s: float
) -> list[Operation]:
    """The endpoint of chat completions."""
    endpoint = GenerationEndpoint(chat_format, submitter, keep_alive_s=keep_alive_s)
    return [
        Operation(
            "POST",
            "/v1/chat/completions",
            endpoint.create,
            description=describe_generation(
                "createChatCompletion",
                "Create a chat completion.",
                request=ChatRequest,
                response=ChatCompletion,
                chunk=ChatCompletionChunk,
                strict_max_tokens=not submitter.has_ceilings,
            ),
            aliases=("/chat/completions",),
            kind="generation",
            request=ChatRequest,
            schemas=(ChatCompletion, ChatCompletionChunk),
        )
    ]
