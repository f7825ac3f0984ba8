"""Every field of a request for the tokenizer changes what the worker gets, or is refused.

Those of vLLM's and llama.cpp's requests are recorded in `foreign_fields`.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgspec
import pytest

from protocol.tokenization import Tokenize
from service.api.chat.format import ChatFormat
from service.api.tokenization.endpoints import to_template_request, to_tokenize
from service.errors import InvalidRequest
from service.http.decoding import decode_body
from service.schema.chat import ChatRequest
from service.schema.tokenization import (
    TEXT_OPTIONS,
    ApplyTemplateRequest,
    TokenizeRequest,
)
from tests.contract import foreign_fields

USER = {"role": "user", "content": "x"}
TOOL = {"type": "function", "function": {"name": "f"}}
TEXTS: dict[str, Any] = {"prompt": "x", "messages": [USER], "content": "x"}
# What a field needs beside it to have an effect.
PARTNERS: dict[str, dict[str, Any]] = {
    "continue_final_message": {"messages": [USER, {"role": "assistant", "content": "x"}]},
    "tool_choice": {"tools": [TOOL]},
}
# As `auto`: whether a call is required is no matter of the prompt.
SAME_PROMPT = ("tool_choice",)
FORMAT = ChatFormat()
FIELDS = [(text, field) for text, fields in foreign_fields.TOKENIZE.items() for field in fields]


def tokenized(body: dict[str, Any]) -> Any:
    """What the worker gets of a request to /tokenize; None if it is refused."""
    decoder = msgspec.json.Decoder(TokenizeRequest)
    try:
        request, ignored = decode_body(json.dumps(body).encode(), decoder)
    except InvalidRequest:
        return None
    assert ignored == []
    return comparable(to_tokenize(FORMAT, request, "m"))


def rendered(body: dict[str, Any]) -> Any:
    """What the worker gets of a request to /apply-template; None if it is refused."""
    decoder = msgspec.json.Decoder(ApplyTemplateRequest)
    try:
        request, ignored = decode_body(json.dumps(body).encode(), decoder)
    except InvalidRequest:
        return None
    assert ignored == []
    return comparable(to_template_request(FORMAT, request, "m"))


def comparable(message: Tokenize) -> dict[str, Any]:
    """The message with its prompt as bytes."""
    return {**msgspec.structs.asdict(message), "prompt": bytes(message.prompt)}


@pytest.mark.parametrize(("text", "field"), FIELDS)
def test_no_field_of_another_servers_tokenize_is_ignored(text: str, field: str) -> None:
    base = {text: TEXTS[text], **PARTNERS.get(field, {})}
    before = tokenized(base)
    assert before is not None
    assert tokenized({**base, field: foreign_fields.TOKENIZE[text][field]}) != before


@pytest.mark.parametrize("field", foreign_fields.APPLY_TEMPLATE)
def test_no_field_of_another_servers_apply_template_is_ignored(field: str) -> None:
    base = {"messages": [USER], **PARTNERS.get(field, {})}
    before = rendered(base)
    assert before is not None
    after = rendered({**base, field: foreign_fields.APPLY_TEMPLATE[field]})
    assert (after == before) == (field in SAME_PROMPT)


@pytest.mark.parametrize(("text", "other"), list(itertools.permutations(TEXTS, 2)))
def test_an_option_of_another_text_is_refused(text: str, other: str) -> None:
    base = {text: TEXTS[text]}
    assert tokenized({**base, other: TEXTS[other]}) is None
    for option in set(TEXT_OPTIONS[other]) - set(TEXT_OPTIONS[text]):
        value = foreign_fields.TOKENIZE[other].get(option, "none")
        if value is False and option != "parse_special":
            # What leaving it out means for this text.
            assert tokenized({**base, option: False}) == tokenized(base)
            value = True
        assert tokenized({**base, option: value}) is None
        assert tokenized({**base, option: None}) == tokenized(base)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [USER], "tools": [TOOL]},
        {"messages": [USER], "tools": [TOOL], "tool_choice": "none"},
        {"messages": [USER], "reasoning_effort": "low"},
        {"messages": [USER], "chat_template_kwargs": {"a": 1}, "add_generation_prompt": False},
    ],
)
def test_the_prompt_of_messages_is_that_of_a_chat(body: dict[str, Any]) -> None:
    decoder = msgspec.json.Decoder(ChatRequest)
    chat = decode_body(json.dumps({"model": "m", **body}).encode(), decoder).request
    [submit] = FORMAT.to_submits(chat, "m")
    expected = msgspec.msgpack.encode(submit.prompt)
    assert tokenized(body)["prompt"] == expected
    assert rendered(body)["prompt"] == expected
