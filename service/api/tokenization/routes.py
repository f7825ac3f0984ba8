"""The rows of the route table for a model's tokenizer."""

from __future__ import annotations

from service.api.chat.format import ChatFormat
from service.api.tokenization.endpoints import TokenizationEndpoints
from service.generation.submitter import Submitter
from service.openapi.descriptions import describe_tokenization, describe_tokenizer_info
from service.openapi.operation import Operation
from service.schema.tokenization import (
    ApplyTemplateRequest,
    ContentTokens,
    DetokenizeRequest,
    DetokenizeResponse,
    RenderedTemplate,
    TokenizeRequest,
    TokenizeResponse,
    TokenizerInfo,
)


def list_tokenization_operations(chat_format: ChatFormat, submitter: Submitter) -> list[Operation]:
    """Endpoints of a model's tokenizer alone; the prompts of messages are those of chats."""
    endpoints = TokenizationEndpoints(chat_format, submitter)
    return [
        Operation(
            "POST",
            "/tokenize",
            endpoints.tokenize,
            describe_tokenization(
                "tokenize",
                "Tokenize a text, or the prompt that messages make.",
                request=TokenizeRequest,
                responses=[TokenizeResponse, ContentTokens],
            ),
            kind="tokenization",
            request=TokenizeRequest,
            schemas=(TokenizeResponse, ContentTokens),
        ),
        Operation(
            "POST",
            "/detokenize",
            endpoints.detokenize,
            describe_tokenization(
                "detokenize",
                "Convert token ids to text.",
                request=DetokenizeRequest,
                responses=[DetokenizeResponse],
            ),
            kind="tokenization",
            request=DetokenizeRequest,
            schemas=(DetokenizeResponse,),
        ),
        Operation(
            "POST",
            "/apply-template",
            endpoints.apply_template,
            describe_tokenization(
                "applyTemplate",
                "Render messages with the model's chat template.",
                request=ApplyTemplateRequest,
                responses=[RenderedTemplate],
            ),
            kind="tokenization",
            request=ApplyTemplateRequest,
            schemas=(RenderedTemplate,),
        ),
        Operation(
            "GET",
            "/tokenizer_info",
            endpoints.describe,
            describe_tokenizer_info(),
            kind="tokenization",
            schemas=(TokenizerInfo,),
        ),
    ]
