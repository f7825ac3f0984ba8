"""Reasoning, content and calls are separated for any division of the text into deltas."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.tool_calls.answers import (
    SECTIONS,
    THINK,
    TOOLS,
    ParsedAnswer,
    make_text,
    parse,
    syntaxes_of,
)
from worker.segmentation.segmenter import Segmenter
from worker.tool_calls.parser import CompiledSyntax

FAMILIES = ["json_tools", "qwen3_coder", "kimi_k2", "mistral", "llama", "gemma4"]
words = st.sampled_from(
    ["Hello", " ", "\n", "<think>", "</think>", "<", "{", "é😀", "SECTION", "HALF"]
)


def parse_deltas(
    deltas: Sequence[str], family: str, *, reasoning: bool, truncated: bool
) -> ParsedAnswer:
    syntaxes = [CompiledSyntax(syntax, TOOLS, ["get_weather"]) for syntax in syntaxes_of(family)]
    segmenter = Segmenter(THINK, syntaxes, reasoning=reasoning)
    answer = ParsedAnswer()
    for delta in deltas:
        answer.add(segmenter.push(delta))
    answer.add(segmenter.finish(truncated=truncated))
    return answer


@given(
    st.lists(words, max_size=6),
    st.lists(st.integers(0, 400), max_size=30),
    st.sampled_from(FAMILIES),
    st.booleans(),
    st.booleans(),
)
def test_an_answer_is_parsed_alike_for_any_division_into_deltas(
    chosen: list[str], cuts: list[int], family: str, reasoning: bool, truncated: bool
) -> None:
    section = SECTIONS[family]
    text = "".join(chosen).replace("SECTION", section).replace("HALF", section[: len(section) // 2])
    deltas = [text[a:b] for a, b in pairwise([0, *sorted(cuts), len(text)])]
    whole = parse_deltas([text], family, reasoning=reasoning, truncated=truncated)
    assert parse_deltas(deltas, family, reasoning=reasoning, truncated=truncated) == whole
    assert parse_deltas(list(text), family, reasoning=reasoning, truncated=truncated) == whole


def test_a_think_block_is_reasoning_without_the_line_breaks_next_to_its_markers() -> None:
    answer = parse("<think>\nWhy?\n\nSo.\n</think>\n\nYes.", make_text())
    assert (answer.reasoning, answer.content) == ("Why?\n\nSo.", "Yes.")


def test_a_think_block_that_the_prompt_opened_needs_no_start_marker() -> None:
    answer = parse("Why?\n</think>\n\nYes.", make_text(reasoning=True))
    assert (answer.reasoning, answer.content) == ("Why?", "Yes.")


def test_truncated_reasoning_is_reasoning() -> None:
    answer = parse("<think>\nWhy? </thi", make_text(), truncated=True)
    assert (answer.reasoning, answer.content) == ("Why? </thi", "")


@pytest.mark.parametrize("text", ["I say <think> and </think>.", "</think> is a marker"])
def test_think_markers_inside_content_are_content(text: str) -> None:
    assert parse(text, make_text()) == ParsedAnswer(content=text)


def test_a_stop_string_applies_only_to_content() -> None:
    answer = parse("<think>one stop two</think>three stop four", make_text(stop=["stop"]))
    assert (answer.reasoning, answer.content) == ("one stop two", "three ")


def test_a_call_after_reasoning_leaves_no_content() -> None:
    text = f"<think>\nWhy?\n</think>\n\n{SECTIONS['json_tools']}\n"
    answer = parse(text, make_text(syntaxes_of("json_tools")))
    assert (answer.reasoning, answer.content, len(answer.calls)) == ("Why?", "", 1)


def test_the_tokens_of_a_think_block_are_counted() -> None:
    text = make_text()
    parse("<think>ab</think>cdef", text)
    assert text.reasoning_tokens == len("<think>ab</think>") - len("<think>") + 1
