"""Calls that models of many families write, over HTTP: a staged model says each of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http
from tests.e2e.daemon import Daemon, running
from tests.e2e.staged_weather import ask
from tests.models import staged
from tests.models.staged import CHATML, Staged

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
}
PARIS = ("get_weather", {"city": "Paris"})
TAGS = ("<tool_call>", "</tool_call>")
JSON_IN_TAGS = "{# <tool_call> tool_call.name tools #}" + CHATML

CODER = "{# <tool_call>\n<function=> tools #}" + CHATML
HARMONY = (
    "{# <|channel|> #}{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>"
    "{% endfor %}{{ tools | tojson }}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
CHANNELS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>")
HERMES_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CODER_CALL = "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>"


def hermes(says: str) -> Staged:
    """A model that writes calls as JSON in tags."""
    return Staged(says, template=JSON_IN_TAGS, added=TAGS)


def coder(says: str) -> Staged:
    """A model that writes calls as tagged text."""
    return Staged(says, template=CODER, added=TAGS)


def told(word: str, says: str) -> Staged:
    """A model whose template has a word that tells its syntax."""
    return Staged(says, template=f"{{# {word} tools #}}{CHATML}")


# Models that call get_weather for Paris.
CALLING = {
    "hermes": hermes(HERMES_CALL),
    "hermes-parameters": hermes(HERMES_CALL.replace("arguments", "parameters")),
    "hermes-after-text": hermes(f"I look.\n{HERMES_CALL}"),
    "hermes-bare": hermes(HERMES_CALL[12:-13]),
    "coder": coder(f"<tool_call>\n{CODER_CALL}\n</tool_call>"),
    "coder-bare": coder(f"I look.\n\n{CODER_CALL}\n</tool_call>"),
    "coder-not-closed": coder(
        f"<tool_call>\n{CODER_CALL}\n</tool_call>".replace("</parameter>\n", "")
    ),
    "harmony": Staged(
        "<|channel|>analysis<|message|>It asks for it.<|end|><|start|>assistant<|channel|>"
        'commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}',
        template=HARMONY,
        special=CHANNELS,
        added=("assistant",),
        end="<|call|>",
        after="assistant",
    ),
    "deepseek": told(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
        '{"city": "Paris"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    ),
    "command": told(
        "<|START_ACTION|>",
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_weather", '
        '"parameters": {"city": "Paris"}}]<|END_ACTION|>',
    ),
    "apertus": told(
        "<|tools_prefix|>", '<|tools_prefix|>[{"get_weather": {"city": "Paris"}}]<|tools_suffix|>'
    ),
    "lfm": told(
        "<|tool_call_start|>", '<|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>'
    ),
    "glm": told(
        "<arg_key>",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
        "</tool_call>",
    ),
}
# Models whose templates write the ids of earlier calls, and refuse those of another form.
WRITES_IDS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}[call {{ call.id }}]"
    "{{ call.function.name }}{{ call.function.arguments | tojson }}{% endfor %}"
    "{% if m.role == 'tool' %}[of {{ m.tool_call_id }}]{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WRITING_IDS = {
    "mistral-ids": Staged(
        "It rains.",
        template="{% for m in messages %}{% for call in m.tool_calls or [] %}"
        "{% if call.id|length != 9 %}{{ raise_exception('Tool call IDs should be alphanumeric "
        "strings with length 9!') }}{% endif %}{% endfor %}{% endfor %}" + WRITES_IDS,
    ),
    "kimi-ids": Staged("It rains.", template="{# <|tool_calls_section_begin|> #}" + WRITES_IDS),
}
# Models that only talk about calls.
TALKING = {
    "fence": hermes(f"Write this:\n```\n{HERMES_CALL}\n```"),
    "sentence": hermes(f"One writes {HERMES_CALL} to call it."),
}
# A model that calls a tool that no request declares.
UNDECLARED = hermes(HERMES_CALL.replace("get_weather", "get_time"))
STAGED = {
    "plain": Staged("Hello, I am staged. 日本語 and 😀.\n\nIt says this twice, twice."),
    "thinking-harmony": Staged(
        "<|channel|>analysis<|message|>It greets.<|end|><|start|>assistant<|channel|>final"
        "<|message|>Hello to you.",
        template=HARMONY,
        special=CHANNELS,
        added=("assistant",),
        end="<|call|>",
        after="assistant",
    ),
    "undeclared": UNDECLARED,
    "undeclared-harmony": Staged(
        "<|channel|>commentary to=functions.set_weather <|constrain|>json<|message|>"
        '{"city": "Paris"}',
        template=HARMONY,
        special=CHANNELS,
        added=("assistant",),
        end="<|call|>",
        after="assistant",
    ),
    **CALLING,
    **TALKING,
    **WRITING_IDS,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A service of all staged models."""
    folder = tmp_path_factory.mktemp("staged")
    paths = [staged.make(model, folder / name) for name, model in STAGED.items()]
    with running(*paths) as daemon:
        yield daemon


@pytest.fixture
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        yield client


def test_a_staged_model_says_its_text(http: httpx.Client) -> None:
    answer = ask(http, "plain")
    assert (answer["content"], answer["reason"]) == (STAGED["plain"].says, "stop")


@pytest.mark.parametrize("name", CALLING)
def test_a_call_is_given_as_a_call(http: httpx.Client, name: str) -> None:
    answer = ask(http, name, tools=[TOOL])
    assert (answer["calls"], answer["reason"]) == ([PARIS], "tool_calls")
    assert answer["content"] in (None, "I look.")
    assert answer["reasoning"] == ("It asks for it." if name == "harmony" else None)


@pytest.mark.parametrize("name", TALKING)
def test_an_answer_that_talks_about_calls_is_text(http: httpx.Client, name: str) -> None:
    answer = ask(http, name, tools=[TOOL])
    assert (answer["calls"], answer["reason"]) == ([], "stop")
    assert answer["content"] == TALKING[name].says


@pytest.mark.parametrize("name", ["undeclared", "undeclared-harmony"])
def test_a_call_that_a_model_opens_has_a_declared_name(http: httpx.Client, name: str) -> None:
    answer = ask(http, name, tools=[TOOL])
    assert [name for name, _ in answer["calls"]] == ["get_weather"]
    assert answer["content"] is None


@pytest.mark.parametrize("name", ["hermes", "coder", "glm", "lfm"])
def test_a_strict_tool_is_held_to_its_schema_in_sections_of_every_syntax(
    http: httpx.Client, name: str
) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    function = {"name": "get_weather", "strict": True, "parameters": schema}
    asked: dict[str, Any] = {
        "model": name,
        "messages": [{"role": "user", "content": "Weather?"}],
        "tools": [{"type": "function", "function": function}],
    }
    for choice in ("auto", "required"):
        reply = http.post("/v1/chat/completions", json={**asked, "tool_choice": choice})
        assert reply.status_code == httpx.codes.OK, reply.text
        assert "x-mlxd-ignored" not in reply.headers
        [call] = reply.json()["choices"][0]["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}


def asked_with_calls(model: str, *ids: str) -> dict[str, Any]:
    """A conversation with calls of these ids, and their results in another order."""
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    calls = [{"id": id, "type": "function", "function": function} for id in ids]
    results = [{"role": "tool", "tool_call_id": id, "content": f"of {id}"} for id in ids]
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        *reversed(results),
    ]
    return {"model": model, "messages": messages, "tools": [TOOL]}


def written_ids(http: httpx.Client, asked: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The ids of calls and of results in the prompt; the model also answers."""
    assert ask(http, asked["model"], messages=asked["messages"], tools=asked["tools"])["content"]
    reply = http.post("/apply-template", json=asked)
    assert reply.status_code == httpx.codes.OK, reply.text
    prompt = reply.json()["prompt"]
    return re.findall(r"\[call (.*?)\]", prompt), re.findall(r"\[of (.*?)\]", prompt)


FOREIGN_IDS = [
    ["call_Bl7vXqOQX1GZ4R0l3mfDlLWj", "toolu_01A09q90qw90lq917835lq9"],
    ["functions.get_weather:7", "chatcmpl-tool-0a1b2c3d4e5f"],
    ["a", "b"],
]


@pytest.mark.parametrize("ids", FOREIGN_IDS)
def test_foreign_ids_become_nine_characters_for_mistral(http: httpx.Client, ids: list[str]) -> None:
    calls, results = written_ids(http, asked_with_calls("mistral-ids", *ids))
    assert all(re.fullmatch(r"[a-zA-Z0-9]{9}", id) for id in calls)
    assert len(set(calls)) == 2
    assert results == calls[::-1]


@pytest.mark.parametrize("ids", FOREIGN_IDS)
def test_foreign_ids_become_names_and_numbers_for_kimi(http: httpx.Client, ids: list[str]) -> None:
    calls, results = written_ids(http, asked_with_calls("kimi-ids", *ids))
    assert all(re.fullmatch(r"functions\.get_weather:\d+", id) for id in calls)
    assert len(set(calls)) == 2
    assert results == calls[::-1]


def test_a_call_without_declared_tools_is_text(http: httpx.Client) -> None:
    answer = ask(http, "undeclared")
    assert (answer["calls"], answer["content"]) == ([], UNDECLARED.says)


def test_harmonys_channels_are_reasoning_and_content(http: httpx.Client) -> None:
    answer = ask(http, "thinking-harmony")
    assert (answer["content"], answer["reasoning"]) == ("Hello to you.", "It greets.")


@pytest.mark.parametrize(
    "name",
    [
        "hermes",
        *(pytest.param(name, marks=pytest.mark.long) for name in ("coder", "harmony", "glm")),
    ],
)
def test_a_call_that_the_limit_cuts_is_a_call_as_far_as_it_goes(
    http: httpx.Client, name: str
) -> None:
    reasons = set()
    for tokens in range(2, 90, 3):
        asked: dict[str, Any] = {
            "model": name,
            "messages": [{"role": "user", "content": "Weather?"}],
        }
        asked |= {"tools": [TOOL], "max_tokens": tokens, "temperature": 0}
        [choice] = http.post("/v1/chat/completions", json=asked).json()["choices"]
        message = choice["message"]
        if calls := message.get("tool_calls"):
            assert message["content"] is None
            assert '{"city": "Paris"}'.startswith(calls[0]["function"]["arguments"])
            reasons.add(choice["finish_reason"])
    assert "length" in reasons


def test_the_capabilities_list_the_syntax_that_was_found(http: httpx.Client) -> None:
    ask(http, "coder")
    ask(http, "thinking-harmony")
    models = {m["id"]: m for m in http.get("/v1/capabilities").json()["data"]}
    assert models["coder"]["call_syntaxes"] == ["qwen3_coder"]
    assert models["thinking-harmony"]["call_syntaxes"] == ["harmony"]
    assert models["thinking-harmony"]["reasoning_markers"]
