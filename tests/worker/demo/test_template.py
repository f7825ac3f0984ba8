"""The demo model's chat template and tokenizer, as mlx-lm loads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.tokenizer_utils import load as load_tokenizer

from worker.demo import demo_model_path
from worker.demo.training.corpus.weather import TOOL

Message = dict[str, Any]

TOKENIZER: TokenizerWrapper = load_tokenizer(demo_model_path())
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>")


def render(messages: list[Message], tools: list[Any] | None = None, prompt: bool = True) -> str:
    text: str = TOKENIZER.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=prompt
    )
    return text


def call_message(arguments: Any, content: str | None = None) -> Message:
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def test_a_prompt_ends_with_the_header_of_the_assistants_turn() -> None:
    assert render([{"role": "user", "content": "Hello"}]) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_tools_are_in_the_system_block_as_compact_json() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    block = render(messages, [TOOL]).split("<|eot_id|>")[0]
    heading, listed = block.split("\n\nTools:\n")
    assert heading.endswith("system<|end_header_id|>\n\nBe brief.")
    assert listed == json.dumps(TOOL["function"], separators=(",", ":"))


def test_tools_need_no_system_message() -> None:
    text = render([{"role": "user", "content": "Hello"}], [TOOL])
    assert text.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nTools:")


@pytest.mark.parametrize("arguments", [{"city": "Paris"}, '{"city":"Paris"}'])
def test_arguments_may_be_an_object_or_its_json(arguments: Any) -> None:
    text = render([{"role": "user", "content": "?"}, call_message(arguments)], prompt=False)
    call = '<tool_call>{"name":"get_weather","arguments":{"city":"Paris"}}</tool_call><|eot_id|>'
    assert text.endswith(call)


def test_mlx_lm_parses_the_call_that_the_template_writes() -> None:
    text = render([{"role": "user", "content": "?"}, call_message({"city": "Paris"})], prompt=False)
    inner = text.split(TOKENIZER.tool_call_start)[1].split(TOKENIZER.tool_call_end)[0]
    assert TOKENIZER.tool_parser(inner) == {"name": "get_weather", "arguments": {"city": "Paris"}}


def test_a_tools_result_has_its_own_role() -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature":18}'}
    text = render([{"role": "user", "content": "?"}, call_message({}), result])
    assert '<|start_header_id|>tool<|end_header_id|>\n\n{"temperature":18}<|eot_id|>' in text


def test_content_may_be_in_parts() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    whole = render([{"role": "user", "content": "Hello"}])
    assert render([{"role": "user", "content": parts}]) == whole


def test_a_developer_message_is_a_system_message() -> None:
    system, developer = (
        render([{"role": role, "content": "Be brief."}, {"role": "user", "content": "Hello"}])
        for role in ("system", "developer")
    )
    assert system == developer


ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
CONTENTS: st.SearchStrategy[Any] = (
    st.none() | st.text() | st.lists(st.builds(dict, text=st.text()), max_size=2)
)
TURNS = st.builds(lambda role, content: {"role": role, "content": content}, ROLES, CONTENTS)


@given(st.lists(TURNS, min_size=1, max_size=4), st.booleans())
def test_every_chat_can_be_rendered(messages: list[Message], with_tools: bool) -> None:
    text = render(messages, [TOOL] if with_tools else None)
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


@pytest.mark.parametrize("mark", [*SPECIAL, "<|end_header_id|>", "<tool_call>", "</tool_call>"])
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_content_cannot_contain_special_tokens(role: str, mark: str) -> None:
    token = TOKENIZER.convert_tokens_to_ids(mark)
    plain, marked = (
        TOKENIZER.encode(render([{"role": role, "content": c}]), add_special_tokens=False)
        for c in ("x", f"x{mark}x")
    )
    assert marked.count(token) == plain.count(token)


@given(st.text())
def test_decoding_restores_the_encoded_text(text: str) -> None:
    if not any(mark in text for mark in SPECIAL):
        assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("word", ["Zurich", "flomshan", "weather"])
def test_a_rare_word_has_the_same_tokens_after_a_space_and_after_a_quotation_mark(
    word: str,
) -> None:
    alone = TOKENIZER.encode(word, add_special_tokens=False)
    for before in ("is ", '"', "_"):
        tokens = TOKENIZER.encode(f"{before}{word}", add_special_tokens=False)
        assert tokens[-len(alone) :] == alone


def test_digits_are_single_tokens() -> None:
    assert len(TOKENIZER.encode("2026", add_special_tokens=False)) == 4


def test_both_stop_tokens_end_an_answer() -> None:
    stop_token_ids = TOKENIZER.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"])
    assert TOKENIZER.eos_token_id == stop_token_ids[0]
    config = json.loads((demo_model_path() / "generation_config.json").read_text())
    assert config["eos_token_id"] == stop_token_ids


def test_plain_text_starts_with_the_begin_token() -> None:
    assert TOKENIZER.encode("Once")[0] == TOKENIZER.bos_token_id
