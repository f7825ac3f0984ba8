"""The four rules of reading calls.

Never a call with less than was written; never a call that was not made; never the text of a call
that was also given as a call; never a call lost in silence.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.worker.tool_calls.answers import (
    BOTH,
    SECTIONS,
    ParsedAnswer,
    make_text,
    parse,
    syntaxes_of,
)

PARIS = ("get_weather", {"city": "Paris", "days": 2})
A = ("get", {"city": "A"})
XML = (
    "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
    "<parameter=days>\n2\n</parameter>\n</function>"
)
XML_A = "<function=get>\n<parameter=city>\nA\n</parameter>\n</function>"
JSON_A = '{"name": "get", "arguments": {"city": "A"}}'
INVOKE = '<minimax:tool_call>\n<invoke name="get">\n{}\n</invoke>\n</minimax:tool_call>'
GLM = "<tool_call>get\n<arg_key>{}</arg_key>\n<arg_value>{}</arg_value>\n</tool_call>"


def tags(text: str) -> str:
    return f"<tool_call>\n{text}\n</tool_call>"


def value(text: str) -> str:
    """A call of Qwen Coder with this value for a city."""
    return tags(f"<function=get>\n<parameter=city>\n{text}\n</parameter>\n</function>")


def read(
    family: str,
    text: str,
    *,
    truncated: bool = False,
    properties: dict[str, Any] | None = None,
) -> ParsedAnswer:
    """The answer of a model of the family; `properties` are what `get` declares."""
    parser = make_text(syntaxes_of(family), properties=properties)
    return parse(text, parser, truncated=truncated)


@pytest.mark.parametrize(
    ("family", "text", "calls"),
    [
        ("json_tools", tags('{"name": "get", "parameters": {"city": "A"}}'), [A]),
        ("json_tools", tags('{"arguments": {"city": "A"}, "name": "get"}'), [A]),
        ("json_tools", tags('{"name": "get", "arguments": {"city": "A"}, "id": "x1"}'), [A]),
        ("json_tools", tags('{"id": 1, "name": "get", "arguments": {"city": "A"}}'), [A]),
        ("json_tools", tags('{"type": "function", "function": ' + JSON_A + "}"), [A]),
        ("json_tools", tags('{"name": "get", "arguments": "{\\"city\\": \\"A\\"}"}'), [A]),
        ("json_tools", tags('{"name": "get", "arguments": null}'), [("get", {})]),
        ("json_tools", tags('{"name": "get", "arguments": ""}'), [("get", {})]),
        ("json_tools", tags('{"name": "get"}'), [("get", {})]),
        ("json_tools", tags(f"{JSON_A}\n{JSON_A}"), [A, A]),
        ("json_tools", tags(f"[{JSON_A}, {JSON_A}]"), [A, A]),
        ("json_tools", tags(JSON_A[:-1]), [A]),
        ("json_tools", tags(JSON_A + "}"), [A]),
        ("json_tools", f"<tool_call>\n{JSON_A}", [A]),
        ("json_tools", f"<tool_call>\n{JSON_A}\n<tool_call>\n{JSON_A}\n</tool_call>", [A, A]),
        ("json_tools", tags(XML), [PARIS]),
        ("qwen3_coder", tags(JSON_A), [A]),
        ("qwen3_coder", tags(f"{XML_A}\n{XML}"), [A, PARIS]),
        ("qwen3_coder", f"{XML_A}\n</tool_call>", [A]),
        ("qwen3_coder", f"I look.\n\n{XML}\n</tool_call>\n", [PARIS]),
        ("qwen3_coder", f"{XML_A}\n{XML}", [A, PARIS]),
        ("qwen3_coder", f"<tool_call>\n{XML}", [PARIS]),
        ("qwen3_coder", tags(XML.replace("</function>", "").rstrip()), [PARIS]),
        ("qwen3_coder", tags(XML.replace("</parameter>\n</function>", "</function>")), [PARIS]),
        ("qwen3_coder", tags(XML.replace("\n</parameter>\n<", "\n<", 1)), [PARIS]),
        ("qwen3_coder", tags("<function=get>\n</function>"), [("get", {})]),
        ("mistral", '[TOOL_CALLS]get[CALL_ID]abc123def[ARGS]{"city": "A"}', [A]),
        ("mistral", "[TOOL_CALLS]get[ARGS]null", [("get", {})]),
        ("kimi_k2", SECTIONS["kimi_k2"].split("<|tool_calls_section_begin|>")[1], [PARIS]),
        ("kimi_k2", SECTIONS["kimi_k2"].replace(":0", ""), [PARIS]),
        ("kimi_k2", SECTIONS["kimi_k2"].replace("functions.", "").replace(":0", ""), [PARIS]),
        ("json_tools", tags(f"{JSON_A},"), [A]),
        ("json_tools", tags('{"name": "get", "arguments": {"city": "A"}, "arguments": {}}'), [A]),
        ("json_tools", f"<tool_response>\nSun.\n</tool_response>\n{tags(JSON_A)}", [A]),
        ("deepseek_v31", SECTIONS["deepseek_v31"].replace("<｜tool▁calls▁end｜>", ""), [PARIS]),
        ("minimax_m2", SECTIONS["minimax_m2"].replace("<minimax:tool_call>\n", ""), [PARIS]),
        ("llama", '[get_weather(city="Paris", days=2)]', [PARIS]),
        ("llama", f"<function=get_weather>{BOTH}</function>", [PARIS]),
        ("llama", '{"name": "get", "parameters": null}', [("get", {})]),
        ("glm47", tags("get"), [("get", {})]),
        ("glm47", f"<tool_call>{JSON_A}</tool_call>", [A]),
        ("granite", f"<|tool_call|>{JSON_A}", [A]),
        ("firefunction", f" functools[{JSON_A}, {JSON_A}]", [A, A]),
    ],
)
def test_a_call_that_is_written_otherwise_is_whole(family: str, text: str, calls: Any) -> None:
    answer = read(family, text)
    assert answer.values == calls
    assert answer.content in ("", "I look.", "<tool_response>\nSun.\n</tool_response>")
    assert answer.has_tool_calls


@pytest.mark.parametrize(
    "text",
    [
        tags('{"name": "get", "city": "A"}'),
        tags('{"name": "get", "arguments": ["A"]}'),
        tags('{"name": "get", "arguments": "A"}'),
        tags('{"arguments": {"city": "A"}}'),
        tags('{"name": "unknown", "arguments": {"city": "A"}}'),
        tags('{"name": ["get"], "arguments": {}}'),
    ],
)
def test_a_section_without_a_whole_call_is_content(text: str) -> None:
    assert read("json_tools", text) == ParsedAnswer(content=text)


@pytest.mark.parametrize(
    "text",
    [
        "    if x:\n        return 1\n",
        "\n\nA\n\n",
        "",
        " ",
        "A call ends with </tool_call> as such.",
        "</function>",
        "see </parameter> in a text",
        "</function>\n</tool_call> and more",
        '"quoted" \\n {"a": 1}',
        "10001",
        "null",
    ],
)
@pytest.mark.parametrize("family", ["qwen3_coder", "glm47", "minimax_m2", "seed_oss"])
def test_a_string_argument_is_kept_to_the_byte(family: str, text: str) -> None:
    section = {
        "qwen3_coder": value(text),
        "glm47": GLM.format("city", text),
        "minimax_m2": INVOKE.format(f'<parameter name="city">{text}</parameter>'),
        "seed_oss": f"<seed:tool_call>\n<function=get>\n<parameter=city>{text}</parameter>\n"
        "</function>\n</seed:tool_call>",
    }[family]
    answer = read(family, f"{section}\nSo.")
    assert (answer.values, answer.content.strip()) == ([("get", {"city": text})], "So.")


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "string"}, "10001", "10001"),
        ({"type": ["string", "null"]}, "10001", "10001"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null", "null"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"$ref": "#/$defs/zip"}, "10001", "10001"),
        ({"type": "integer"}, "2", 2),
        ({"type": "integer"}, "two", "two"),
        ({"type": ["integer", "null"]}, "null", None),
        ({"type": "boolean"}, "True", True),
        ({"type": "boolean"}, "yes", "yes"),
        ({"type": "array"}, '["a", 1]', ["a", 1]),
        ({"type": "array"}, "['a', None]", ["a", None]),
        ({"type": "object"}, '{"a": {"b": []}}', {"a": {"b": []}}),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, '["a"]', ["a"]),
        ({"type": "number"}, "1.50", 1.5),
        ({"type": "number"}, "NaN", "NaN"),
        ({}, "12", 12),
        ({}, "plain words", "plain words"),
    ],
)
@pytest.mark.parametrize("family", ["qwen3_coder", "glm47", "muse_spark"])
def test_a_value_has_the_type_that_the_tool_declares(
    family: str, schema: Any, text: str, expected: Any
) -> None:
    section = {
        "qwen3_coder": value(text),
        "glm47": GLM.format("city", text),
        "muse_spark": '<atem:function_calls>\n<atem:invoke name="get">\n<atem:parameter '
        f'name="city">{text}</atem:parameter>\n</atem:invoke>\n</atem:function_calls>',
    }[family]
    assert read(family, section, properties={"city": schema}).values == [
        ("get", {"city": expected})
    ]


TALK = [
    f"```\n{tags(JSON_A)}\n```",
    f"Write this:\n\n```xml\n{tags(XML)}\n```\n\nand wait.",
    f"~~~\n{tags(JSON_A)}\n~~~",
    f"One writes <tool_call>{JSON_A}</tool_call> to call it.",
    f'The page said: "<tool_call>{JSON_A}</tool_call>" and no more.',
    f"`<tool_call>{JSON_A}</tool_call>` is a call.",
    f"It is `{XML_A}` here.",
    f"> <tool_call>{JSON_A}</tool_call>",
    f"> {XML}",
    "Use <tool_call> and </tool_call> around a call.",
    "A call begins with <tool_call> and names get or get_weather.",
    "<tool_call> is the marker, </tool_call> its end.",
    "First <function=get>, then its parameters.",
    f"I could answer {JSON_A} to call it.",
    f"{JSON_A} is how get is called.",
    f"For example:\n\n    {tags(JSON_A)}\n\nand no more.".replace("\n{", "\n    {"),
    f"It returned:\n<tool_response>\n{tags(JSON_A)}\n</tool_response>",
    f"<pre>\n{tags(XML)}\n</pre>",
    f"<example>\n\n{XML}\n</example>\nis an example.",
    f"{XML_A}\nThat is how one calls get.",
    "<tool_call>\nget is the name of a tool\n</tool_call>",
    "<tool_call>\n<function=get> has one parameter, city.\n</tool_call>",
    '{"name": "get", "description": "Gets.", "parameters": {"type": "object"}}',
    f"<think>\nI might write <tool_call>{JSON_A}</tool_call>.\n</think>\nNo.",
    f"<think>\n{tags(JSON_A)}\nis what I would write.\n</think>\nNo call is needed.",
    f"<think>\nHm.\n{tags(XML)}\n</think>\nNo.",
    f"- to call get: <tool_call>{JSON_A}</tool_call> (in tags)",
    "get(city='A') is Python.",
]


@pytest.mark.parametrize("text", TALK)
@pytest.mark.parametrize("family", ["json_tools", "qwen3_coder"])
def test_an_answer_that_talks_about_calls_has_none(family: str, text: str) -> None:
    answer = read(family, text)
    assert answer.calls == []
    assert not answer.has_tool_calls
    said = answer.reasoning + answer.content
    assert "".join(said.split()) == "".join(
        text.replace("<think>", "").replace("</think>", "").split()
    )


@pytest.mark.parametrize("family", SECTIONS)
def test_a_section_in_a_code_fence_or_a_sentence_is_content(family: str) -> None:
    for text in (f"```\n{SECTIONS[family]}\n```", f"One writes {SECTIONS[family]} to call it."):
        assert read(family, text) == ParsedAnswer(content=text)


@pytest.mark.parametrize("family", [f for f in SECTIONS if not f.startswith("llama")])
def test_a_section_that_ends_its_line_is_a_call(family: str) -> None:
    answer = read(family, f"I look. {SECTIONS[family]}")
    assert (answer.values, answer.content) == ([PARIS], "I look.")


THINKING = "<think>\nHm.\n"


@pytest.mark.parametrize("call", [tags(JSON_A), tags(XML_A), XML_A])
def test_a_call_in_a_think_block_that_never_closes_counts_if_the_answer_ends_with_it(
    call: str,
) -> None:
    answer = read("qwen3_coder", THINKING + call)
    assert (answer.values, answer.reasoning, answer.content) == ([A], "Hm.", "")
    for text, truncated in (
        (THINKING + call, True),
        (THINKING + call[:-20], False),
        (f"{THINKING}{call}\nor not", False),
    ):
        answer = read("qwen3_coder", text, truncated=truncated)
        assert (answer.calls, answer.content) == ([], "")
        assert answer.reasoning == text.removeprefix("<think>\n")


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("json_tools", THINKING + tags(f"{JSON_A}\n{JSON_A}")),
        ("json_tools", THINKING + tags(JSON_A) + tags(JSON_A)),
        ("qwen3_coder", THINKING + tags(f"{XML_A}\n{XML}")),
        ("qwen3_coder", f"{XML_A}\n{XML}"),
        ("llama", "[get(city='A'), get(city='B')]"),
        ("json_tools", f"I look. {tags(f'{JSON_A} {JSON_A}')}\nSo."),
        ("json_tools", f"{JSON_A}\n{JSON_A}"),
    ],
)
def test_calls_that_are_held_back_are_not_lost_where_only_one_is_wanted(
    family: str, text: str
) -> None:
    answer = parse(text, make_text(syntaxes_of(family), parallel=False))
    assert (answer.values, answer.has_tool_calls) == ([A], True)
    assert "get" not in answer.content + answer.reasoning


def test_a_bare_call_counts_if_it_is_whole_and_ends_the_answer() -> None:
    assert read("json_tools", JSON_A).values == [A]
    for text, truncated in ((XML_A, True), (XML_A[:-30], False), (f"{JSON_A} so", False)):
        assert read("json_tools", text, truncated=truncated) == ParsedAnswer(content=text)


@pytest.mark.parametrize("family", SECTIONS)
def test_a_call_that_is_cut_has_as_much_as_was_written(family: str) -> None:
    section = SECTIONS[family]
    end = section.index("Paris") + 3
    answer = read(family, section[:end], truncated=True)
    assert [name for name, _ in answer.calls] == ["get_weather"]
    assert BOTH.startswith(answer.calls[0][1])
    assert (answer.content, answer.has_tool_calls) == ("", False)
