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


def rendered(messages: list[Message], tools: list[Any] | None = None, ask: bool = True) -> str:
    text: str = TOKENIZER.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=ask
    )
    return text


def calling(arguments: Any, content: str | None = None) -> Message:
    function = {"name": "get_weather", "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    return {"role": "assistant", "content": content, "tool_calls": [call]}


def test_a_chat_opens_the_assistants_turn() -> None:
    assert rendered([{"role": "user", "content": "Hello"}]) == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_tools_stand_in_the_system_block_as_compact_json() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    block = rendered(messages, [TOOL]).split("<|eot_id|>")[0]
    heading, listed = block.split("\n\nTools:\n")
    assert heading.endswith("system<|end_header_id|>\n\nBe brief.")
    assert listed == json.dumps(TOOL["function"], separators=(",", ":"))


def test_tools_need_no_system_message() -> None:
    text = rendered([{"role": "user", "content": "Hello"}], [TOOL])
    assert text.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nTools:")


@pytest.mark.parametrize("arguments", [{"city": "Paris"}, '{"city":"Paris"}'])
def test_arguments_may_be_an_object_or_its_text(arguments: Any) -> None:
    text = rendered([{"role": "user", "content": "?"}, calling(arguments)], ask=False)
    call = '<tool_call>{"name":"get_weather","arguments":{"city":"Paris"}}</tool_call><|eot_id|>'
    assert text.endswith(call)


def test_mlx_lm_parses_the_call_that_the_template_writes() -> None:
    text = rendered([{"role": "user", "content": "?"}, calling({"city": "Paris"})], ask=False)
    inner = text.split(TOKENIZER.tool_call_start)[1].split(TOKENIZER.tool_call_end)[0]
    assert TOKENIZER.tool_parser(inner) == {"name": "get_weather", "arguments": {"city": "Paris"}}


def test_a_tools_result_has_its_own_role() -> None:
    result = {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature":18}'}
    text = rendered([{"role": "user", "content": "?"}, calling({}), result])
    assert '<|start_header_id|>tool<|end_header_id|>\n\n{"temperature":18}<|eot_id|>' in text


def test_content_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    whole = rendered([{"role": "user", "content": "Hello"}])
    assert rendered([{"role": "user", "content": parts}]) == whole


def test_a_developer_message_is_a_system_message() -> None:
    system, developer = (
        rendered([{"role": role, "content": "Be brief."}, {"role": "user", "content": "Hello"}])
        for role in ("system", "developer")
    )
    assert system == developer


ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool"])
CONTENTS: st.SearchStrategy[Any] = (
    st.none() | st.text() | st.lists(st.builds(dict, text=st.text()), max_size=2)
)
TURNS = st.builds(lambda role, content: {"role": role, "content": content}, ROLES, CONTENTS)


@given(st.lists(TURNS, min_size=1, max_size=4), st.booleans())
def test_no_chat_breaks_the_template(messages: list[Message], with_tools: bool) -> None:
    text = rendered(messages, [TOOL] if with_tools else None)
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


@pytest.mark.parametrize("mark", [*SPECIAL, "<|end_header_id|>", "<tool_call>", "</tool_call>"])
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_content_cannot_write_special_tokens(role: str, mark: str) -> None:
    token = TOKENIZER.convert_tokens_to_ids(mark)
    plain, marked = (
        TOKENIZER.encode(rendered([{"role": role, "content": c}]), add_special_tokens=False)
        for c in ("x", f"x{mark}x")
    )
    assert marked.count(token) == plain.count(token)


@given(st.text())
def test_text_survives_the_tokenizer(text: str) -> None:
    if not any(mark in text for mark in SPECIAL):
        assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("word", ["Zurich", "flomshan", "weather"])
def test_an_unusual_word_has_the_same_tokens_after_a_blank_and_after_a_quotation_mark(
    word: str,
) -> None:
    alone = TOKENIZER.encode(word, add_special_tokens=False)
    for before in ("is ", '"', "_"):
        tokens = TOKENIZER.encode(f"{before}{word}", add_special_tokens=False)
        assert tokens[-len(alone) :] == alone


def test_digits_are_single_tokens() -> None:
    assert len(TOKENIZER.encode("2026", add_special_tokens=False)) == 4


def test_both_ends_stop_a_generation() -> None:
    ends = TOKENIZER.convert_tokens_to_ids(["<|eot_id|>", "<|end_of_text|>"])
    assert TOKENIZER.eos_token_id == ends[0]
    config = json.loads((demo_model_path() / "generation_config.json").read_text())
    assert config["eos_token_id"] == ends


def test_plain_text_starts_with_the_begin_token() -> None:
    assert TOKENIZER.encode("Once")[0] == TOKENIZER.bos_token_id
