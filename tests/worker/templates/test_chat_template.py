"""Conversations of any form become a prompt that lacks none of their messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.utils import load_tokenizer

from protocol.messages import ChatPrompt
from tests.models import chat_templates, templates
from worker.prompt_errors import PromptError
from worker.templates.chat_template import ChatTemplate
from worker.templates.variables import TemplateVariables
from worker.tool_calls.prompting import GENERIC_CALL_TEMPLATE

Make = Callable[[str], ChatTemplate]

TEMPLATES = {
    "Llama": templates.LLAMA,
    "Qwen": templates.QWEN,
    "Gemma": templates.GEMMA,
    "first system only": chat_templates.FIRST_SYSTEM_ONLY,
    "system at the beginning": chat_templates.SYSTEM_AT_THE_BEGINNING,
    "alternating": chat_templates.ALTERNATING,
    "text arguments": chat_templates.TEXT_ARGUMENTS,
    "described tools": chat_templates.DESCRIBED_TOOLS,
    "functions": chat_templates.FUNCTIONS,
    "tools in system": chat_templates.TOOLS_IN_SYSTEM,
    "tools in system text": chat_templates.TOOLS_IN_SYSTEM_TEXT,
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"c": {}}}},
}


@pytest.fixture(scope="module")
def make(llama_path: Path) -> Make:
    made: dict[str, ChatTemplate] = {}

    def make_template(template: str) -> ChatTemplate:
        if template not in made:
            tokenizer = load_tokenizer(llama_path)
            tokenizer.chat_template = template
            variables = TemplateVariables(tokenizer)
            made[template] = ChatTemplate(tokenizer, GENERIC_CALL_TEMPLATE, variables)
        return made[template]

    return make_template


def render(template: ChatTemplate, *messages: dict[str, Any], **options: Any) -> str:
    return str(template.render(ChatPrompt(list(messages), **options), tokenize=False))


def message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def call(arguments: str, id: str = "call_1") -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    calls = [{"id": id, "type": "function", "function": function}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def result(text: str, id: str = "call_1") -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": id}


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Messages in any order that OpenAI's API takes; the first is no answer."""
    messages: list[dict[str, Any]] = []
    for place in range(draw(st.integers(1, 7))):
        kinds = ["system", "developer", "user"] + (["assistant", "call"] if messages else [])
        kind = draw(st.sampled_from(kinds))
        if kind != "call":
            messages.append(message(kind, f"text{place}of"))
            continue
        arguments = st.sampled_from(["", "null", '{"c": "x"}', '{"c": "x', "[1]", "7"])
        messages += [call(draw(arguments), f"id{place}"), result(f"text{place}of", f"id{place}")]
    if all(each["role"] in ("system", "developer") for each in messages):
        messages.append(message("user", "textlastof"))
    roles = [each["role"] for each in messages]
    first_other = next(i for i, role in enumerate(roles) if role not in ("system", "developer"))
    if roles[first_other] != "user":
        messages.insert(first_other, message("user", "textfirstof"))
    return messages


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=conversations(), with_tools=st.booleans())
def test_every_template_takes_every_conversation_whole(
    make: Make, name: str, messages: list[dict[str, Any]], with_tools: bool
) -> None:
    template = make(TEMPLATES[name])
    prompt = ChatPrompt(messages, tools=[TOOL] if with_tools else [])
    template.check_whole(prompt)
    text = template.render(prompt, tokenize=False)
    assert all(each["content"] in text for each in messages)
    assert not with_tools or "get_weather" in text
    places = [text.index(each["content"]) for each in messages if each["content"]]
    if "developer" not in TEMPLATES[name]:
        assert places == sorted(places)


@pytest.mark.parametrize("name", TEMPLATES)
@given(messages=conversations())
def test_a_later_turn_keeps_the_prompt_of_an_earlier_one(
    make: Make, name: str, messages: list[dict[str, Any]]
) -> None:
    template = make(TEMPLATES[name])
    turn = [*messages, message("user", "question")]
    later = [*turn, message("assistant", "answer"), message("user", "more")]
    before, after = (
        render(template, *each, generation_prompt=False).partition("question")[0]
        for each in (turn, later)
    )
    assert before == after


def test_system_messages_at_the_beginning_become_one_where_only_one_is_kept(make: Make) -> None:
    messages = [message("system", "one"), message("developer", "two"), message("user", "hi")]
    for template in (chat_templates.FIRST_SYSTEM_ONLY, chat_templates.SYSTEM_AT_THE_BEGINNING):
        assert "<|im_start|>system\none\n\ntwo<|im_end|>\n" in render(make(template), *messages)
    kept = "<|im_start|>system\none<|im_end|>\n<|im_start|>system\ntwo<|im_end|>\n"
    assert kept in render(make(templates.QWEN), *messages)


def test_a_later_system_message_keeps_its_place(make: Make) -> None:
    messages = [message("user", "hi"), message("system", "be brief")]
    marked = "hi\n\n<system-reminder>\nbe brief\n</system-reminder><|im_end|>"
    assert marked in render(make(chat_templates.SYSTEM_AT_THE_BEGINNING), *messages)
    assert "<|im_start|>system\nbe brief" in render(make(templates.QWEN), *messages)


def test_instructions_open_the_first_question_where_the_template_has_no_system_role(
    make: Make,
) -> None:
    text = render(make(templates.GEMMA), message("system", "be brief"), message("user", "hi"))
    assert "<start_of_turn>user\nbe brief\n\nhi<end_of_turn>" in text


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("", {}),
        ("null", {}),
        ("  ", {}),
        ('{"city": "Paris"}', {"city": "Paris"}),
        ('{"city": "Par', {"arguments": '{"city": "Par'}),
        ("[1, 2]", {"arguments": [1, 2]}),
        ("[" * 100_000, {"arguments": "[" * 100_000}),
        ('{"a":' * 64 + "1" + "}" * 64, json.loads('{"a":' * 64 + "1" + "}" * 64)),
        ('{"a":' * 65 + "1" + "}" * 65, {"arguments": '{"a":' * 65 + "1" + "}" * 65}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        ('{"\\udc00": ["x\\ud800y"]}', {"\ufffd": ["x\ufffdy"]}),
    ],
)
def test_arguments_are_always_an_object(
    make: Make, arguments: str, written: dict[str, Any]
) -> None:
    template = make(chat_templates.ALTERNATING)
    text = render(template, message("user", "q"), call(arguments), result("r"))
    begin = text.index("[CALL]get_weather") + len("[CALL]get_weather")
    assert json.loads(text[begin : text.index("</s>")]) == written


def test_arguments_are_text_where_the_template_joins_them_to_text(make: Make) -> None:
    template = make(chat_templates.TEXT_ARGUMENTS)
    question = message("user", "q")
    written = render(template, question, call('{"city":"Paris"}'), result("r"))
    assert '<call>get_weather\n{"city":"Paris"}</call>' in written
    assert "<call>get_weather\n{}</call>" in render(template, question, call(""), result("r"))


def test_a_question_after_a_result_is_taken_where_turns_must_alternate(make: Make) -> None:
    template = make(chat_templates.ALTERNATING)
    more = message("user", "and tomorrow?")
    text = render(template, message("user", "q"), call("{}"), result("sunny"), more)
    assert "sunny" in text
    assert text.endswith("[INST]and tomorrow?[/INST]")


def test_tools_are_described_in_the_text_where_the_template_leaves_them_out(make: Make) -> None:
    text = render(make(chat_templates.TEXT_ARGUMENTS), message("user", "q"), tools=[TOOL])
    assert '"name": "get_weather"' in text


@pytest.mark.parametrize("template", ["tools in system", "tools in system text"])
def test_tools_that_a_template_writes_beside_a_system_message_alone_are_its_own(
    template: str, make: Make
) -> None:
    instructed = [message("system", "s"), message("user", "q")]
    text = render(make(TEMPLATES[template]), *instructed, tools=[TOOL])
    assert text.count("get_weather") == 1
    assert "[TOOLS]" in text
    alone = render(make(TEMPLATES[template]), message("user", "q"), tools=[TOOL])
    assert alone.count('"name": "get_weather"') == 1
    # Without a text of the client's the message has none, or the tools as a text.
    assert ("[TOOLS]" in alone) == (template == "tools in system")
    assert "[TOOLS]" not in render(make(TEMPLATES[template]), *instructed)


def test_a_template_that_reads_functions_and_the_date_gets_them(make: Make) -> None:
    text = render(make(chat_templates.FUNCTIONS), message("user", "q"), tools=[TOOL])
    assert '"name": "get_weather"' in text


def test_a_result_has_the_name_of_its_call(make: Make) -> None:
    template = (
        "{% for m in messages %}{{ m.name or m.role }}:{{ m.content }}"
        "{{ m.tool_calls | tojson if m.tool_calls }};{% endfor %}"
    )
    text = render(make(template), message("user", "q"), call("{}"), result("r"))
    assert "get_weather:r;" in text


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_earlier_reasoning_has_the_name_that_the_template_reads(make: Make, key: str) -> None:
    template = f"{{% for m in messages %}}{{{{ m.{key} or '' }}}}|{{{{ m.content }}}}{{% endfor %}}"
    answer = {**message("assistant", "a"), "reasoning_content": "because"}
    assert "because|a" in render(make(template), message("user", "q"), answer)


def test_a_message_that_the_template_leaves_out_is_refused_by_its_place(make: Make) -> None:
    last_only = "{{ messages[-1].content }}"
    messages = [message("user", "first"), message("assistant", "a"), message("user", "last")]
    with pytest.raises(PromptError, match=r"leaves out `messages\[0\]`") as caught:
        make(last_only).check_whole(ChatPrompt(messages))
    assert caught.value.param == "messages[0]"


def test_a_template_may_change_the_case_of_texts(make: Make) -> None:
    shouts = "{% for m in messages %}{{ m.content | upper }}\n{% endfor %}"
    messages = [message("system", "one"), message("user", "two")]
    make(shouts).check_whole(ChatPrompt(messages))
    assert render(make(shouts), *messages) == "ONE\nTWO\n"


def test_an_earlier_answer_may_be_left_out(make: Make) -> None:
    users_only = "{% for m in messages if m.role == 'user' %}{{ m.content }}\n{% endfor %}"
    messages = [message("user", "first"), message("assistant", "a"), message("user", "last")]
    make(users_only).check_whole(ChatPrompt(messages))
    assert render(make(users_only), *messages) == "first\nlast\n"
