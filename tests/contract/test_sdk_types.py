"""Every value of the clients' types, at any depth, is taken or refused by the name of its place.

So a new field, block, item or word of a package's next version fails here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_params
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import input_token_count_params, response_create_params

from protocol.encoding import encode
from service.api.chat.format import ChatFormat
from service.api.messages.format import MessagesFormat
from service.api.messages.request import CountTokensRequest, MessagesRequest
from service.api.responses.shapes.request import ResponseRequest, TokenCountRequest
from service.errors import InvalidRequest
from service.http.decoding import decode_body
from service.schema.chat import ChatRequest
from service.schema.completions import CompletionRequest
from service.store.encoded_thinking import EncodedThinking
from tests.contract.sdk_values import vary


class Api(NamedTuple):
    """The parameters of a package's method, what reads them, and the least of a request.

    `unknown` are those that no table has: they are refused as any unknown parameter is.
    """

    theirs: Any
    ours: type[Any]
    base: Mapping[str, Any] = MappingProxyType({})
    unknown: frozenset[str] = frozenset()


RESPONSE = {"model": "m", "input": "x"}
# Of Anthropic's beta methods; `betas` is a header there.
BETA_ALONE = frozenset(
    {
        "betas",
        "billing_policy",
        "compaction",
        "fallback_credit_token",
        "fallbacks",
        "output_config.task_budget",
        "thinking.block_binding",
        "thread",
    }
)
APIS = {
    "chat": Api(chat_params.CompletionCreateParamsNonStreaming, ChatRequest),
    "completions": Api(completion_params.CompletionCreateParamsNonStreaming, CompletionRequest),
    "responses": Api(
        response_create_params.ResponseCreateParamsNonStreaming, ResponseRequest, RESPONSE
    ),
    "input_tokens": Api(
        input_token_count_params.InputTokenCountParams,
        TokenCountRequest,
        RESPONSE,
        frozenset({"personality"}),
    ),
    "messages": Api(message_create_params.MessageCreateParamsNonStreaming, MessagesRequest),
    "count_tokens": Api(message_count_tokens_params.MessageCountTokensParams, CountTokensRequest),
    "beta messages": Api(
        beta_params.MessageCreateParamsNonStreaming, MessagesRequest, unknown=BETA_ALONE
    ),
}
MESSAGES = MessagesFormat(EncodedThinking(lambda: b"k" * 32))


def convert(request: Any) -> None:
    """Make what the worker gets of a valid request, where that needs no store."""
    match request:
        case MessagesRequest():
            encode(MESSAGES.to_submits(request, "m"))
        case ChatRequest():
            encode(ChatFormat().to_submits(request, "m"))
        case _:
            pass


def top(path: str) -> str:
    """The parameter that a path begins with."""
    return re.split(r"[.\[]", path)[0]


@pytest.mark.parametrize("name", APIS)
def test_every_value_is_taken_or_refused_by_its_place(name: str) -> None:
    api = APIS[name]
    decoder = msgspec.json.Decoder(api.ours)
    taken, faults = 0, set()
    for path, value in vary(api.theirs):
        try:
            convert(decode_body(json.dumps({**api.base, **value}).encode(), decoder).request)
            taken += 1
        except InvalidRequest as error:
            param = error.param or ""
            is_known = error.code != "unknown_parameter" or param in api.unknown
            if not (is_known and top(param) == top(path)):
                faults.add(f"{path}: {param} {error.message}")
    assert not faults
    assert taken > 30
