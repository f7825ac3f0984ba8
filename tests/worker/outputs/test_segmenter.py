"""Reasoning, content and calls are told apart however their text is cut."""

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
    Read,
    make_text,
    read,
    syntaxes_of,
)
from worker.outputs.segmenter import Segmenter
from worker.tool_calls.parser import SyntaxPatterns

FAMILIES = ["json_tools", "qwen3_coder", "kimi_k2", "mistral", "llama", "gemma4"]
words = st.sampled_from(
    ["Hello", " ", "\n", "<think>", "</think>", "<", "{", "é😀", "SECTION", "HALF"]
)


def read_pieces(pieces: Sequence[str], family: str, *, reasoning: bool, cut: bool) -> Read:
    patterns = [SyntaxPatterns(syntax, TOOLS, ["get_weather"]) for syntax in syntaxes_of(family)]
    segmenter = Segmenter(THINK, patterns, reasoning=reasoning)
    answer = Read()
    for piece in pieces:
        answer.add(segmenter.push(piece))
    answer.add(segmenter.finish(cut=cut))
    return answer


@given(
    st.lists(words, max_size=6),
    st.lists(st.integers(0, 400), max_size=30),
    st.sampled_from(FAMILIES),
    st.booleans(),
    st.booleans(),
)
def test_an_answer_is_the_same_however_it_is_cut_into_pieces(
    chosen: list[str], breakpoints: list[int], family: str, reasoning: bool, cut: bool
) -> None:
    section = SECTIONS[family]
    text = "".join(chosen).replace("SECTION", section).replace("HALF", section[: len(section) // 2])
    places = [0, *sorted(breakpoints), len(text)]
    pieces = [text[a:b] for a, b in pairwise(places)]
    whole = read_pieces([text], family, reasoning=reasoning, cut=cut)
    assert read_pieces(pieces, family, reasoning=reasoning, cut=cut) == whole
    assert read_pieces(list(text), family, reasoning=reasoning, cut=cut) == whole


def test_a_think_block_is_reasoning_without_the_line_breaks_at_its_borders() -> None:
    answer = read("<think>\nWhy?\n\nSo.\n</think>\n\nYes.", make_text())
    assert (answer.reasoning, answer.content) == ("Why?\n\nSo.", "Yes.")


def test_a_think_block_that_the_prompt_opened_needs_no_marker() -> None:
    answer = read("Why?\n</think>\n\nYes.", make_text(reasoning=True))
    assert (answer.reasoning, answer.content) == ("Why?", "Yes.")


def test_reasoning_that_is_cut_is_reasoning() -> None:
    answer = read("<think>\nWhy? </thi", make_text(), cut=True)
    assert (answer.reasoning, answer.content) == ("Why? </thi", "")


@pytest.mark.parametrize("text", ["I say <think> and </think>.", "</think> is a marker"])
def test_think_markers_in_prose_are_text(text: str) -> None:
    assert read(text, make_text()) == Read(content=text)


def test_a_stop_string_applies_to_content_alone() -> None:
    answer = read("<think>one stop two</think>three stop four", make_text(stop=["stop"]))
    assert (answer.reasoning, answer.content) == ("one stop two", "three ")


def test_a_call_after_reasoning_leaves_no_content() -> None:
    text = f"<think>\nWhy?\n</think>\n\n{SECTIONS['json_tools']}\n"
    answer = read(text, make_text(syntaxes_of("json_tools")))
    assert (answer.reasoning, answer.content, len(answer.calls)) == ("Why?", "", 1)


def test_the_tokens_of_a_think_block_are_counted() -> None:
    text = make_text()
    read("<think>ab</think>cdef", text)
    assert text.reasoning_tokens == len("<think>ab</think>") - len("<think>") + 1
