"""The rows of the route table for messages."""

from __future__ import annotations

from service.api.messages.answer import Message
from service.api.messages.endpoint import MessagesEndpoint, TokenCount
from service.api.messages.request import CountTokensRequest, MessagesRequest
from service.generation.submitter import Submitter
from service.http.anthropic_errors import AnthropicError
from service.openapi.descriptions import describe_messages, describe_tokenization
from service.openapi.operation import Operation
from service.store.encoded_thinking import EncodedThinking


def list_message_operations(
    submitter: Submitter, thinking: EncodedThinking, *, keep_alive_s: float
) -> list[Operation]:
    """The endpoints of messages."""
    endpoint = MessagesEndpoint(submitter, thinking, keep_alive_s=keep_alive_s)
    return [
        Operation(
            "POST",
            "/v1/messages",
            endpoint.create,
            description=describe_messages(
                "createMessage",
                "Create a message.",
                request=MessagesRequest,
                response=Message,
                error=AnthropicError,
                strict_max_tokens=not submitter.has_ceilings,
            ),
            aliases=("/messages",),
            kind="generation",
            request=MessagesRequest,
            schemas=(Message, AnthropicError),
        ),
        Operation(
            "POST",
            "/v1/messages/count_tokens",
            endpoint.count_tokens,
            description=describe_tokenization(
                "countMessageTokens",
                "Count the tokens of a message's prompt.",
                request=CountTokensRequest,
                responses=[TokenCount],
                error=AnthropicError,
            ),
            aliases=("/messages/count_tokens",),
            kind="tokenization",
            request=CountTokensRequest,
            schemas=(TokenCount,),
        ),
    ]
