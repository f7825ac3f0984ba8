"""Calls of tools with any allowed name are read, in every syntax, beside tools with like names."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.models.call_templates import CALL_TEMPLATES
from tests.models.conversations import Conversations, Message, call_message
from tests.worker.tool_calls.answers import SECTIONS, TOOLS, make_text, parse, syntaxes_of

# The template does not work in Jinja as transformers has it, for anybody.
UNUSABLE = {"llama-cpp-deepseek-r1"}
LONGEST = "mcp.server-1.find_" + "x" * 110
ASKED: list[Message] = [{"role": "user", "content": "Weather?"}]
VALUES = {"city": "Paris", "days": 2}

names = st.text("abyzAZ019_.-", min_size=1, max_size=128) | st.sampled_from(
    [
        ".",
        "-",
        "..",
        "get.call",
        "functions.get",
        "multi_agent_v1.close_agent",
        "name",
        "arguments",
        "null",
        "1",
        LONGEST,
    ]
)


def like(name: str) -> list[str]:
    """Names that begin or end as this one, or differ where a pattern would not."""
    candidates = (name[:-1], name + "x", name + ".x", "x." + name, name.replace(".", "_"))
    return [name, *dict.fromkeys(c for c in candidates if c and c != name and len(c) <= 128)]


@pytest.mark.parametrize("family", SECTIONS)
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
@given(name=names)
@example(name="multi_agent_v1.close_agent")
@example(name=LONGEST)
def test_a_call_is_read_by_its_whole_name(family: str, name: str) -> None:
    tools = [{**TOOLS[0], "function": {**TOOLS[0]["function"], "name": n}} for n in like(name)]
    section = SECTIONS[family].replace("get_weather", name)
    answer = parse(section, make_text(syntaxes_of(family), names=like(name), tools=tools))
    assert answer.values == [(name, VALUES)]
    assert answer.content == ""
    assert answer.has_tool_calls


@pytest.mark.parametrize("syntax", CALL_TEMPLATES)
@pytest.mark.parametrize("name", ["multi_agent_v1.close_agent", "a-b.c_d", LONGEST])
def test_a_call_that_a_template_writes_is_read_by_its_whole_name(syntax: str, name: str) -> None:
    tools = [{**TOOLS[0], "function": {**TOOLS[0]["function"], "name": n}} for n in like(name)]
    model = Conversations(CALL_TEMPLATES[syntax], tools)
    before, answer = model.written(ASKED, call_message([(name, {"city": "Paris"})]))
    assert model.read(before, answer).calls == [(name, {"city": "Paris"})]


@pytest.mark.long
def test_real_templates_write_names_that_are_read_back(
    real_templates: dict[str, str],
) -> None:
    name = "multi_agent_v1.close-agent"
    declared = like(name)
    function = {**TOOLS[0]["function"], "description": "A tool."}
    tools = [{**TOOLS[0], "function": {**function, "name": each}} for each in declared]
    wrong = {}
    for template in sorted(real_templates.keys() - UNUSABLE):
        model = Conversations(real_templates[template], tools)
        before, answer = model.written(ASKED, call_message([(name, {"city": "Paris"})]))
        if (calls := model.read(before, answer).calls) != [(name, {"city": "Paris"})]:
            wrong[template] = calls
    assert wrong == {}


def many(count: int) -> Sequence[str]:
    return [f"server{n % 7}.tool-{n}_{'x' * 100}" for n in range(count)]


@pytest.mark.long
@pytest.mark.parametrize("family", SECTIONS)
def test_one_of_the_most_tools_that_a_request_may_have_is_called(family: str) -> None:
    declared = many(512)
    tools = [{**TOOLS[0], "function": {**TOOLS[0]["function"], "name": n}} for n in declared]
    section = SECTIONS[family].replace("get_weather", declared[500])
    answer = parse(section, make_text(syntaxes_of(family), names=declared, tools=tools))
    assert answer.values == [(declared[500], VALUES)]
