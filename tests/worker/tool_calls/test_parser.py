"""Every family's calls are read, and nothing that is none is taken for one."""

from __future__ import annotations

import pkgutil

import mlx_lm.tool_parsers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.tool_calls.answers import BOTH, CITY, SECTIONS, Read, make_text, read, syntaxes_of
from worker.tool_calls.formats import FAMILIES

PARIS = ("get_weather", {"city": "Paris", "days": 2})
STREAMED = ["json_tools", "kimi_k2", "mistral", "mistral list", "llama", "llama tagged"]


def test_every_parser_of_mlx_lm_has_its_line() -> None:
    known = {module.name for module in pkgutil.iter_modules(mlx_lm.tool_parsers.__path__)}
    assert known == set(FAMILIES)
    assert known <= set(SECTIONS)


@pytest.mark.parametrize("family", SECTIONS)
def test_a_call_is_read_and_nothing_else_is_said(family: str) -> None:
    answer = read(SECTIONS[family], make_text(syntaxes_of(family)))
    assert answer.values == [PARIS]
    assert answer.content == ""
    assert answer.called


@pytest.mark.parametrize("family", [f for f in SECTIONS if f != "llama"])
def test_words_before_a_call_are_content_without_the_line_break_between(family: str) -> None:
    answer = read(f"I look.\n\n{SECTIONS[family]}", make_text(syntaxes_of(family)))
    assert (answer.values, answer.content) == ([PARIS], "I look.")


@pytest.mark.parametrize("family", SECTIONS)
def test_without_tools_a_call_is_text(family: str) -> None:
    answer = read(SECTIONS[family], make_text())
    assert (answer.content, answer.calls, answer.called) == (SECTIONS[family], [], False)


@pytest.mark.parametrize("family", SECTIONS)
def test_a_call_of_an_unknown_tool_is_text(family: str) -> None:
    text = make_text(syntaxes_of(family), names=["other"])
    assert read(SECTIONS[family], text) == Read(content=SECTIONS[family])


@pytest.mark.parametrize("family", SECTIONS)
def test_a_call_that_is_cut_comes_as_text_wherever_it_is_cut(family: str) -> None:
    section = SECTIONS[family]
    for end in range(1, len(section)):
        answer = read(section[:end], make_text(syntaxes_of(family)), cut=True)
        if answer.called:  # all of it but its end marker was there
            assert answer.values == [PARIS]
            assert answer.content == ""
        else:
            assert answer.content == section[:end]
            assert all(BOTH.startswith(arguments) for _, arguments in answer.calls)


@pytest.mark.parametrize("family", STREAMED)
def test_json_arguments_come_as_they_are_written(family: str) -> None:
    text = make_text(syntaxes_of(family))
    section = SECTIONS[family]
    answer = Read()
    for token in section[: section.index("Par") + 3].encode():
        answer.add(text.push(token))
    assert answer.calls == [("get_weather", '{"city": "Par')]


@pytest.mark.parametrize("family", SECTIONS)
def test_a_marker_that_is_only_spoken_of_is_text(family: str) -> None:
    [*_, syntax] = syntaxes_of(family)
    prose = f"One writes {syntax.start} and then what is called, {syntax.end} at the end."
    assert read(prose, make_text(syntaxes_of(family))) == Read(content=prose)


@pytest.mark.parametrize("family", ["json_tools", "qwen3_coder", "kimi_k2", "mistral"])
def test_a_call_after_a_marker_that_was_only_spoken_of_is_read(family: str) -> None:
    [syntax] = syntaxes_of(family)
    prose = f"I write {syntax.start} now:"
    answer = read(f"{prose}\n{SECTIONS[family]}", make_text([syntax]))
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
def test_several_calls_are_read(family: str, section: str) -> None:
    answer = read(section, make_text(syntaxes_of(family)))
    assert (answer.values, answer.content) == ([PARIS, PARIS], "")


@pytest.mark.parametrize("family", [f for f in SECTIONS if f != "llama built-in"])
def test_where_only_one_call_is_asked_for_the_answer_ends_with_it(family: str) -> None:
    text = make_text(syntaxes_of(family), parallel=False)
    answer = read(SECTIONS[family] + " and more", text)
    assert answer.values == [PARIS]
    assert answer.content == ""
    assert text.stopped


def test_arguments_that_stop_being_json_come_as_text_too() -> None:
    section = '<tool_call>{"name": "get", "arguments": {"city": nonsense}}</tool_call>'
    answer = read(section, make_text(syntaxes_of("json_tools")))
    assert answer.content == section
    assert not answer.called


def test_arguments_before_the_name_are_read_once_they_are_whole() -> None:
    section = f'<tool_call>{{"arguments": {CITY}, "name": "get"}}</tool_call>'
    assert read(section, make_text(syntaxes_of("json_tools"))).values == [
        ("get", {"city": "Paris"})
    ]


def test_a_stop_string_inside_a_call_does_not_cut_it() -> None:
    answer = read(SECTIONS["json_tools"], make_text(syntaxes_of("json_tools"), stop=["Paris"]))
    assert answer.values == [PARIS]


def test_a_marker_inside_a_string_argument_ends_no_call() -> None:
    section = '<tool_call>{"name": "get", "arguments": {"city": "</tool_call>"}}</tool_call>'
    answer = read(section, make_text(syntaxes_of("json_tools")))
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
def test_nothing_is_lost_of_any_answer(text: str, cut: bool) -> None:
    answer = read(text, make_text(syntaxes_of("json_tools")), cut=cut)
    said = answer.content + answer.reasoning
    for word in ("hello ", "é😀"):
        assert said.count(word.strip()) == text.count(word.strip())
    if not (answer.calls or "<think>" in text or "</think>" in text):
        assert answer.content == text
