"""Every family's calls are parsed, and text that is no call stays content."""

from __future__ import annotations

import pkgutil

import mlx_lm.tool_parsers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.tool_calls.answers import (
    BOTH,
    CITY,
    SECTIONS,
    ParsedAnswer,
    make_text,
    parse,
    syntaxes_of,
)
from worker.tool_calls.formats import BY_NAME

PARIS = ("get_weather", {"city": "Paris", "days": 2})
# Of a call that is cut at each place: as long as most tokens of a vocabulary.
TOKEN_BYTES = 4
STREAMED = ["json_tools", "kimi_k2", "mistral", "mistral list", "llama", "llama tagged"]


def test_every_parser_of_mlx_lm_has_a_format() -> None:
    known = {module.name for module in pkgutil.iter_modules(mlx_lm.tool_parsers.__path__)}
    assert known <= set(BY_NAME)
    assert known <= set(SECTIONS)


@pytest.mark.parametrize("family", SECTIONS)
def test_a_call_alone_is_parsed_and_leaves_no_content(family: str) -> None:
    answer = parse(SECTIONS[family], make_text(syntaxes_of(family)))
    assert answer.values == [PARIS]
    assert answer.content == ""
    assert answer.has_tool_calls


@pytest.mark.parametrize("family", [f for f in SECTIONS if f != "llama"])
def test_text_before_a_call_is_content_without_the_line_breaks_between_them(family: str) -> None:
    answer = parse(f"I look.\n\n{SECTIONS[family]}", make_text(syntaxes_of(family)))
    assert (answer.values, answer.content) == ([PARIS], "I look.")


@pytest.mark.parametrize("family", SECTIONS)
def test_without_tools_a_call_is_content(family: str) -> None:
    answer = parse(SECTIONS[family], make_text())
    assert (answer.content, answer.calls, answer.has_tool_calls) == (SECTIONS[family], [], False)


@pytest.mark.parametrize("family", SECTIONS)
def test_a_call_of_an_unknown_tool_is_content(family: str) -> None:
    text = make_text(syntaxes_of(family), names=["other"])
    assert parse(SECTIONS[family], text) == ParsedAnswer(content=SECTIONS[family])


@pytest.mark.parametrize("family", SECTIONS)
def test_a_truncated_call_is_content_or_a_partial_call_but_not_both(family: str) -> None:
    section = SECTIONS[family]
    for end in range(1, len(section)):
        text = make_text(syntaxes_of(family))
        answer = parse(section[:end], text, truncated=True, token_size=TOKEN_BYTES)
        if answer.has_tool_calls:  # only the end marker was missing
            assert answer.values == [PARIS]
            assert answer.content == ""
        else:
            assert answer.content == ("" if answer.calls else section[:end])
            assert all(BOTH.startswith(arguments) for _, arguments in answer.calls)


@pytest.mark.parametrize("family", STREAMED)
def test_json_arguments_are_streamed(family: str) -> None:
    text = make_text(syntaxes_of(family))
    section = SECTIONS[family]
    answer = ParsedAnswer()
    for token in section[: section.index("Par") + 3].encode():
        answer.add(text.push(token))
    assert answer.calls == [("get_weather", '{"city": "Par')]


@pytest.mark.parametrize("family", SECTIONS)
def test_a_marker_that_is_only_mentioned_is_content(family: str) -> None:
    [*_, syntax] = syntaxes_of(family)
    prose = f"One writes {syntax.start} and then what is called, {syntax.end} at the end."
    assert parse(prose, make_text(syntaxes_of(family))) == ParsedAnswer(content=prose)


@pytest.mark.parametrize("family", ["json_tools", "qwen3_coder", "kimi_k2", "mistral"])
def test_a_call_after_a_mentioned_marker_is_parsed(family: str) -> None:
    [syntax] = syntaxes_of(family)
    prose = f"I write {syntax.start} now:"
    answer = parse(f"{prose}\n{SECTIONS[family]}", make_text([syntax]))
    assert (answer.values, answer.content) == ([PARIS], prose)


@pytest.mark.parametrize(
    ("family", "section"),
    [
        ("json_tools", SECTIONS["json_tools"] + "\n" + SECTIONS["json_tools"]),
        (
            "kimi_k2",
            SECTIONS["kimi_k2"].replace(
                "<|tool_call_end|>",
                f"<|tool_call_end|><|tool_call_begin|>functions.get_weather:1"
                f"<|tool_call_argument_begin|>{BOTH}<|tool_call_end|>",
            ),
        ),
        ("mistral", SECTIONS["mistral"] * 2),
        ("mistral", SECTIONS["mistral"] + SECTIONS["mistral"].removeprefix("[TOOL_CALLS]")),
        ("mistral list", SECTIONS["mistral list"][:-1] + ", " + SECTIONS["mistral list"][14:]),
        ("llama", f"{SECTIONS['llama']}; {SECTIONS['llama']}"),
        ("llama", f"{SECTIONS['llama']}\n{SECTIONS['llama']}"),
        ("pythonic", SECTIONS["pythonic"].replace(")]", '), get_weather(city="Paris", days=2)]')),
        ("gemma4", SECTIONS["gemma4"] * 2),
        ("qwen3_coder", SECTIONS["qwen3_coder"] * 2),
    ],
)
def test_several_calls_are_parsed(family: str, section: str) -> None:
    answer = parse(section, make_text(syntaxes_of(family)))
    assert (answer.values, answer.content) == ([PARIS, PARIS], "")


@pytest.mark.parametrize("family", [f for f in SECTIONS if f != "llama built-in"])
def test_the_answer_ends_with_the_first_call_unless_calls_are_parallel(family: str) -> None:
    text = make_text(syntaxes_of(family), parallel=False)
    answer = parse(SECTIONS[family] + " and more", text)
    assert answer.values == [PARIS]
    assert answer.content == ""
    assert text.stopped


def test_arguments_that_become_invalid_json_are_given_as_they_stand_and_once() -> None:
    section = '<tool_call>{"name": "get", "arguments": {"city": nonsense}}</tool_call>'
    answer = parse(f"{section}\nSo.", make_text(syntaxes_of("json_tools")))
    assert answer.calls == [("get", '{"city": nonsense}}')]
    assert answer.content == "\nSo."


def test_arguments_before_the_name_are_parsed_once_the_section_is_complete() -> None:
    section = f'<tool_call>{{"arguments": {CITY}, "name": "get"}}</tool_call>'
    assert parse(section, make_text(syntaxes_of("json_tools"))).values == [
        ("get", {"city": "Paris"})
    ]


def test_a_stop_string_inside_a_call_does_not_end_the_answer() -> None:
    answer = parse(SECTIONS["json_tools"], make_text(syntaxes_of("json_tools"), stop=["Paris"]))
    assert answer.values == [PARIS]


def test_an_end_marker_inside_a_string_argument_does_not_end_the_call() -> None:
    section = '<tool_call>{"name": "get", "arguments": {"city": "</tool_call>"}}</tool_call>'
    answer = parse(section, make_text(syntaxes_of("json_tools")))
    assert answer.values == [("get", {"city": "</tool_call>"})]


texts = st.lists(
    st.sampled_from(
        [
            *("<tool_call>", "</tool_call>", '{"name": "get", "arguments": ', CITY, "}", "\n"),
            *("<think>", "</think>", "hello ", SECTIONS["json_tools"], '{"name": "none"', "é😀"),
        ]
    ),
    max_size=8,
).map("".join)


@given(texts, st.booleans())
def test_no_text_of_any_answer_is_lost(text: str, truncated: bool) -> None:
    answer = parse(text, make_text(syntaxes_of("json_tools")), truncated=truncated)
    text_parsed = answer.content + answer.reasoning + "".join(a for _, a in answer.calls)
    for word in ("hello ", "é😀"):
        assert text_parsed.count(word.strip()) == text.count(word.strip())
    if not (answer.calls or "<think>" in text or "</think>" in text):
        assert answer.content == text
