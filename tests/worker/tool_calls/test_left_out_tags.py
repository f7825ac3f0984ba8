"""Calls whose closing tags were left out, or which the token limit cuts there."""

from __future__ import annotations

import pytest

from tests.worker.tool_calls.answers import make_text, parse, syntaxes_of

# Answers whose last value is not closed, by family: it ends before the end of the call.
UNCLOSED = {
    "qwen3_coder": "<tool_call>\n<function=get>\n<parameter=city>\nA\n</function>\n</tool_call>",
    "seed_oss": "<seed:tool_call>\n<function=get>\n<parameter=city>A\n</function>\n"
    "</seed:tool_call>",
    "minimax_m2": '<minimax:tool_call>\n<invoke name="get">\n<parameter name="city">A\n</invoke>\n'
    "</minimax:tool_call>",
    "glm47": "<tool_call>get\n<arg_key>city</arg_key>\n<arg_value>A\n</tool_call>",
}


@pytest.mark.parametrize("family", UNCLOSED)
def test_a_line_break_before_the_end_of_the_call_is_no_part_of_the_value(family: str) -> None:
    answer = parse(UNCLOSED[family], make_text(syntaxes_of(family)))
    assert answer.values == [("get", {"city": "A"})]
    assert (answer.content, answer.has_tool_calls) == ("", True)


@pytest.mark.parametrize("family", UNCLOSED)
def test_cut_anywhere_it_has_no_more_than_was_written(family: str) -> None:
    text = UNCLOSED[family]
    [(_, whole)] = parse(text, make_text(syntaxes_of(family))).calls
    for end in range(len(text)):
        answer = parse(text[:end], make_text(syntaxes_of(family)), truncated=True)
        for name, arguments in answer.calls:
            assert name == "get"
            assert whole.startswith(arguments), text[:end]
