"""The capabilities of one model are those of the validator's table."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from openai.types import EmbeddingCreateParams
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as TextParams

from protocol.batching import BatchRules
from protocol.model_states import ModelInfo, ModelState
from protocol.quantisation import KVFacts
from service.schema.capabilities import ModelCapabilities, describe_capabilities
from tests.service.parts import request_types

PLAIN = ModelInfo(
    id="m",
    family="llama",
    context_length=100,
    vocabulary_size=100,
    weight_bytes=1,
    load_ms=1.0,
    has_chat_template=False,
)
CAPABLE = msgspec.structs.replace(
    PLAIN,
    family="qwen3",
    has_chat_template=True,
    template_variables=["enable_thinking"],
    reasoning_effort=True,
    thinks=True,
    fill_in_middle=True,
    call_syntaxes=["qwen3_coder"],
    reasoning_markers=["<think>", "</think>"],
)
REQUIRING = ("messages", "chat_template_kwargs", "continue_final_message")


def capabilities_of(info: ModelInfo | None, **settings: Any) -> ModelCapabilities:
    """The capabilities of a model with this information; None for one that is not loaded."""
    state = ModelState("m", "unloaded" if info is None else "loaded", info=info)
    return describe_capabilities(state, request_types(), **settings)


def supports(info: ModelInfo | None, path: str) -> dict[str, str]:
    described = capabilities_of(info)
    return {name: capability.support for name, capability in described.endpoints[path].items()}


@pytest.mark.parametrize(
    ("documented", "path"),
    [
        (ChatParams, "/v1/chat/completions"),
        (TextParams, "/v1/completions"),
        (EmbeddingCreateParams, "/v1/embeddings"),
    ],
)
def test_every_documented_parameter_is_listed(documented: type, path: str) -> None:
    listed = supports(CAPABLE, path)
    assert documented.__annotations__.keys() - listed.keys() == set()
    assert set(listed.values()) <= {"honoured", "label", "refused"}


@pytest.mark.parametrize(
    ("facts", "quantised", "reason"),
    [
        (KVFacts(8, 6, 6), True, "asks for it"),
        (KVFacts(8, 2, 6, "4 of 6 caches stay"), True, "4 of 6"),
        (KVFacts(0, 0, 6, "6 of 6 caches stay"), False, "6 of 6"),
    ],
)
def test_a_quantisation_is_listed_with_what_comes_of_it(
    facts: KVFacts, quantised: bool, reason: str
) -> None:
    info = msgspec.structs.replace(CAPABLE, kv=facts)
    kv_cache = capabilities_of(info, kv_quantisation="8bit").kv_cache
    assert (kv_cache.asked, kv_cache.quantised) == ("8bit", quantised)
    assert (kv_cache.bits, kv_cache.layers, kv_cache.of_layers) == (facts.bits, facts.layers, 6)
    assert reason in kv_cache.reason
    assert ("Answers differ" in kv_cache.equality) is quantised


def test_a_quantisation_is_unknown_until_the_model_is_loaded() -> None:
    kv_cache = capabilities_of(None, kv_quantisation="4bit").kv_cache
    assert (kv_cache.asked, kv_cache.quantised, kv_cache.bits) == ("4bit", False, None)


@pytest.mark.parametrize(
    ("traits", "told"),
    [
        ({}, ("kept", "kept")),
        ({"inner_systems": False}, ("kept", "in the message before")),
        ({"leading_systems": False}, ("joined", "kept")),
        (
            {"system_messages": False, "inner_systems": False},
            ("in the first user message", "in the message before"),
        ),
    ],
)
def test_what_a_template_does_with_system_messages_is_told(
    traits: dict[str, bool], told: tuple[str, str]
) -> None:
    info = msgspec.structs.replace(CAPABLE, **traits)
    described = capabilities_of(info).system_messages
    assert described is not None
    assert (described.leading, described.inner) == told


def test_system_messages_are_not_told_of_a_model_without_a_template() -> None:
    for info in (PLAIN, None):
        described = capabilities_of(info)
        assert described.system_messages is None


def test_a_parameter_with_a_requirement_is_supported_by_models_that_meet_it() -> None:
    for info, support in ((PLAIN, "refused"), (CAPABLE, "honoured"), (None, "depends")):
        chat, text = supports(info, "/v1/chat/completions"), supports(info, "/v1/completions")
        assert {chat[name] for name in REQUIRING} == {support}
        assert text["suffix"] == support
        assert chat["temperature"] == "honoured"
        assert "suffix" not in chat


def test_the_effort_is_a_label_for_a_model_that_does_not_think() -> None:
    thinking = msgspec.structs.replace(PLAIN, thinks=True)
    for info, support in ((PLAIN, "label"), (thinking, "refused"), (CAPABLE, "honoured")):
        assert supports(info, "/v1/chat/completions")["reasoning_effort"] == support


def test_a_budget_of_thinking_is_a_label_for_a_model_that_marks_none() -> None:
    for info, support in ((PLAIN, "label"), (None, "depends"), (CAPABLE, "honoured")):
        assert supports(info, "/v1/chat/completions")["thinking_token_budget"] == support


def test_a_prediction_is_a_label_for_a_model_that_verifies_no_drafts() -> None:
    for info, rules, support in (
        (None, None, "depends"),
        (PLAIN, BatchRules(undrafted="it is not checked yet"), "label"),
        (PLAIN, BatchRules(verifies_drafts=True), "honoured"),
    ):
        state = ModelState("m", "loaded", info=info, rules=rules)
        [chat] = [
            endpoint
            for endpoint in describe_capabilities(state, request_types()).endpoints.values()
            if "prediction" in endpoint
        ]
        assert chat["prediction"].support == support


def test_thinking_turned_off_changes_nothing_for_a_model_that_does_not_think() -> None:
    endpoints = capabilities_of(PLAIN).endpoints
    assert {"enable_thinking": False} in endpoints["/v1/chat/completions"][
        "chat_template_kwargs"
    ].neutral


def test_a_softened_parameter_is_listed_as_ignored_by_the_operator() -> None:
    thinking = msgspec.structs.replace(PLAIN, thinks=True)
    softened = {"store", "reasoning_effort"}
    chat = capabilities_of(thinking, softened=softened).endpoints["/v1/chat/completions"]
    assert {name for name, c in chat.items() if c.support == "ignored (operator)"} == softened
    assert chat["store"].neutral == [False]
    capable = capabilities_of(CAPABLE, softened=softened)
    assert capable.endpoints["/v1/chat/completions"]["reasoning_effort"].support == "honoured"


def test_the_labels_of_each_place_are_listed() -> None:
    labels = capabilities_of(None).labels
    assert "index" in labels["messages[].tool_calls[]"]


def test_the_endpoints_of_the_tokenizer_are_listed() -> None:
    tokenize = supports(CAPABLE, "/tokenize")
    assert {"prompt", "messages", "content", "with_pieces", "return_token_strs"} <= tokenize.keys()
    assert set(tokenize.values()) == {"honoured"}
    assert supports(CAPABLE, "/detokenize") == {"model": "honoured", "tokens": "honoured"}
    assert supports(PLAIN, "/apply-template")["messages"] == "refused"


def test_a_models_call_syntax_and_reasoning_markers_are_listed_once_it_is_loaded() -> None:
    loaded = capabilities_of(CAPABLE)
    assert loaded.call_syntaxes == ["qwen3_coder"]
    assert loaded.reasoning_markers == ["<think>", "</think>"]
    unloaded = capabilities_of(None)
    assert (unloaded.call_syntaxes, unloaded.reasoning_markers) == ([], [])
