"""A format beside tools and reasoning, over HTTP: staged models of several families."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e import plain_http, staged_weather
from tests.e2e.daemon import Daemon, running
from tests.models import staged
from tests.models.staged import CHATML, Staged

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
PARIS = [("get_weather", {"city": "Paris"})]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"x": {"type": "integer"}},
    "required": ["x"],
    "additionalProperties": False,
}
FORMATS: dict[str, dict[str, Any]] = {
    "schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    },
    "object": {"response_format": {"type": "json_object"}},
    "json": {"structured_outputs": {"json": SCHEMA}},
    "regex": {"structured_outputs": {"regex": r"\{\"x\": \d\}"}},
    "choice": {"structured_outputs": {"choice": ['{"x": 7}', "no"]}},
    "grammar": {"structured_outputs": {"grammar": 'start: "{" thought "}"\nthought: /[^}]*/'}},
}
JSON_TEXT = '{"x": 7}'
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CODER_CALL = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n"
    "</tool_call>"
)
THOUGHT = 'Hm, {"x": 6}?'
OPENED = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n<think>\n{% if enable_thinking is defined and not enable_thinking %}"
    "\n</think>\n\n{% endif %}{% endif %}",
)
THINK_TAGS = ("<think>", "</think>")
CALL_TAGS = ("<tool_call>", "</tool_call>")
HARMONY = (
    "{# <|channel|> #}{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>"
    "{% endfor %}{{ tools | tojson }}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
CHANNELS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|call|>")
ANALYSIS = f"<|channel|>analysis<|message|>{THOUGHT}<|end|><|start|>assistant"

MUSE = (
    "{# <atem:function_calls> tools #}{% for m in messages %}<|start|>{{ m.role }}<|message|>"
    "{{ m.content }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
ADDRESSED = ("<|start|>", "<|message|>", "<|eom|>", "<|eot|>")
TO_SELF = f" to=self<|message|>{THOUGHT}<|eom|><|start|>assistant"
ATEM_CALL = (
    '<atem:function_calls>\n<atem:invoke name="get_weather">\n<atem:parameter name="city">Paris'
    "</atem:parameter>\n</atem:invoke>\n</atem:function_calls>"
)


def hermes(says: str, template: str = CHATML, added: tuple[str, ...] = THINK_TAGS) -> Staged:
    """A model that writes calls as JSON in tags."""
    words = "{# <tool_call> tool_call.name tools #}"
    return Staged(says, template=words + template, added=(*CALL_TAGS, *added))


def harmony(says: str) -> Staged:
    """A model in the manner of gpt-oss."""
    return Staged(says, template=HARMONY, special=CHANNELS, end="<|call|>")


def muse(says: str) -> Staged:
    """A model in the manner of Muse Spark."""
    return Staged(f"{TO_SELF}{says}", template=MUSE, special=ADDRESSED, end="<|eot|>")


# Models that think, if they do, and then write what is asked for: by name, format or call.
ANSWERS: dict[str, dict[str, Staged]] = {
    "plain": {"format": hermes(JSON_TEXT, added=()), "call": hermes(CALL, added=())},
    "begun": {
        "format": hermes(f"{THOUGHT}\n</think>\n\n{JSON_TEXT}", OPENED),
        "call": hermes(f"{THOUGHT}\n</think>\n\n{CALL}", OPENED),
    },
    "by-itself": {
        "format": hermes(f"<think>\n{THOUGHT}\n</think>\n\n{JSON_TEXT}"),
        "call": hermes(f"<think>\n{THOUGHT}\n</think>\n\n{CALL}"),
    },
    "spelled": {
        "format": hermes(
            f"<think>\n{THOUGHT}\n</think>\n\n{JSON_TEXT}", "{# <think> </think> #}" + CHATML, ()
        ),
        "call": hermes(
            f"<think>\n{THOUGHT}\n</think>\n\n{CALL}", "{# <think> </think> #}" + CHATML, ()
        ),
    },
    "harmony": {
        "format": harmony(f"{ANALYSIS}<|channel|>final<|message|>{JSON_TEXT}"),
        "call": harmony(
            f"{ANALYSIS}<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
            '{"city": "Paris"}'
        ),
    },
    "coder": {
        "format": Staged(
            f"{THOUGHT}\n</think>\n\n{JSON_TEXT}",
            template="{# <tool_call>\n<function=> tools #}" + OPENED,
            added=(*THINK_TAGS, *CALL_TAGS),
        ),
        "call": Staged(
            f"{THOUGHT}\n</think>\n\n{CODER_CALL}",
            template="{# <tool_call>\n<function=> tools #}" + OPENED,
            added=(*THINK_TAGS, *CALL_TAGS),
        ),
    },
    "muse": {
        "format": muse(f" to=user<|message|>{JSON_TEXT}"),
        "call": muse(f" to=get_weather<|message|>{ATEM_CALL}"),
    },
    "glm": {
        "format": Staged(JSON_TEXT, template="{# <arg_key> tools #}" + CHATML),
        "call": Staged(
            "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Paris</arg_value></tool_call>",
            template="{# <arg_key> tools #}" + CHATML,
            added=(*CALL_TAGS, "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        ),
    },
}
UNTHINKING = ("plain", "glm")
TOOLS: list[dict[str, Any]] = [{}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "none"}]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A service of all staged models."""
    folder = tmp_path_factory.mktemp("staged")
    models = {f"{name}-{kind}": each for name, of in ANSWERS.items() for kind, each in of.items()}
    with running(*(staged.make(each, folder / name) for name, each in models.items())) as daemon:
        yield daemon


@pytest.fixture
def http(service: Daemon) -> Iterator[httpx.Client]:
    with plain_http.client(service.url) as client:
        yield client


def ask(http: httpx.Client, model: str, **changed: Any) -> dict[str, Any]:
    """The answer's message, with its calls decoded."""
    answer = staged_weather.ask(http, model, **{"max_tokens": 300, **changed})
    del answer["reason"]
    return answer


def thought_of(name: str) -> str | None:
    """What the model thinks."""
    return None if name in UNTHINKING else THOUGHT


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_format_follows_free_reasoning(http: httpx.Client, name: str, form: str) -> None:
    # All of them with one format; each other format with one of them, another for each model.
    place = list(FORMATS).index(form) + list(ANSWERS).index(name)
    chosen = TOOLS if form == "schema" else [TOOLS[place % len(TOOLS)]]
    for tools in chosen:
        answer = ask(http, f"{name}-format", **FORMATS[form], **tools)
        assert answer == {"content": JSON_TEXT, "reasoning": thought_of(name), "calls": []}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_model_may_call_instead_of_writing_the_format(
    http: httpx.Client, name: str, form: str
) -> None:
    answer = ask(http, f"{name}-call", **FORMATS[form], tools=[TOOL])
    assert answer == {"content": None, "reasoning": thought_of(name), "calls": PARIS}


@pytest.mark.parametrize("form", [{}, FORMATS["schema"]])
@pytest.mark.parametrize("name", ANSWERS)
def test_a_required_call_follows_free_reasoning(
    http: httpx.Client, name: str, form: dict[str, Any]
) -> None:
    answer = ask(http, f"{name}-call", **form, tools=[TOOL], tool_choice="required")
    # A model that says a text goes on after it where it may call again.
    assert answer["calls"][:1] == PARIS
    assert (answer["reasoning"], answer["content"]) == (thought_of(name), None)


ODD_SCHEMAS: dict[str, tuple[dict[str, Any], str]] = {
    "look-ahead": ({"type": "string", "pattern": "^(?=P).+$"}, ".pattern"),
    "reference": ({"$ref": "https://example.com/city.json"}, ".$ref"),
    "type": ({"type": "any"}, ".type"),
}
CITY = "tools[0].function.parameters.properties.city"


def post_odd(http: httpx.Client, parameters: dict[str, Any], **changed: Any) -> httpx.Response:
    """The reply to a request with a tool of these parameters."""
    function = {**TOOL["function"], "parameters": parameters, **changed.pop("function", {})}
    asked: dict[str, Any] = {
        "model": "plain-call",
        "messages": [{"role": "user", "content": "Weather?"}],
    }
    asked |= {"tools": [{"type": "function", "function": function}], "temperature": 0, **changed}
    return http.post("/v1/chat/completions", json=asked)


@pytest.mark.parametrize("kind", ODD_SCHEMAS)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_what_cannot_be_enforced_of_a_tools_schema_is_told_and_left_out(
    http: httpx.Client, choice: str, kind: str
) -> None:
    city, dropped = ODD_SCHEMAS[kind]
    schema = {"type": "object", "properties": {"city": city}, "required": ["city"]}
    for form in ({}, FORMATS["schema"]):
        reply = post_odd(http, schema, tool_choice=choice, **form)
        assert reply.status_code == httpx.codes.OK, reply.text
        assert reply.headers["x-mlxd-ignored"] == CITY + dropped.replace("$", "_")
        [choice_made] = reply.json()["choices"]
        [call, *_] = choice_made["message"]["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}


def test_a_schema_that_is_no_schema_is_left_out_as_a_whole(http: httpx.Client) -> None:
    reply = post_odd(http, {"type": "object", "properties": {"city": {"minLength": -1}}})
    assert reply.status_code == httpx.codes.OK, reply.text
    assert reply.headers["x-mlxd-ignored"] == "tools[0].function.parameters"
    [choice] = reply.json()["choices"]
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("kind", ODD_SCHEMAS)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_strict_tool_or_a_format_that_cannot_be_enforced_is_refused(
    http: httpx.Client, choice: str, kind: str
) -> None:
    schema = {
        "type": "object",
        "properties": {"city": ODD_SCHEMAS[kind][0]},
        "required": ["city"],
        "additionalProperties": False,
    }
    for form in ({}, FORMATS["schema"]):
        reply = post_odd(http, schema, tool_choice=choice, function={"strict": True}, **form)
        assert reply.status_code == httpx.codes.BAD_REQUEST, reply.text
        assert reply.json()["error"]["param"].startswith("tools")
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    reply = post_odd(http, SCHEMA, response_format=asked)
    assert reply.status_code == httpx.codes.BAD_REQUEST, reply.text
    assert reply.json()["error"]["param"].startswith("response_format")


def test_a_model_whose_thinking_is_off_begins_with_the_format(http: httpx.Client) -> None:
    asked = {**FORMATS["schema"], "chat_template_kwargs": {"enable_thinking": False}}
    answer = ask(http, "begun-format", **asked)
    assert (answer["reasoning"], set(json.loads(answer["content"]))) == (None, {"x"})
