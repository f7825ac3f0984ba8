"""What a chat template writes for calls in the history is read back as these calls."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models.call_templates import CALL_TEMPLATES
from tests.models.conversations import Calls, Conversations, Message, call_message, open_model
from worker.tool_calls.formats import SYNTAXES

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A tool.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "A city."},
                    "days": {"type": "integer", "description": "Days."},
                    "tags": {
                        "type": "array",
                        "description": "Tags.",
                        "items": {"type": "string", "description": "A tag."},
                    },
                    "sunny": {"type": "boolean", "description": "Sun."},
                },
                "required": ["city"],
            },
        },
    }
    for name in ("get_weather", "get")
]
ASKED: list[Message] = [{"role": "user", "content": "Weather?"}]
PARIS: Calls = [("get_weather", {"city": "Paris", "days": 2})]
# White space, quotation marks, other scripts, and what looks like a number.
CODE: Calls = [
    ("get", {"city": '  if x:\n\treturn "\\n"\n', "tags": ["a b", "é日😀"], "sunny": True}),
    ("get", {"city": "10001"}),
]
# The template does not work in Jinja as transformers has it, for anybody.
UNUSABLE = {"llama-cpp-deepseek-r1"}
# The template writes strings between quotation marks without escaping what they contain.
UNESCAPED = {"LFM2.5-8B-A1B"}


def lost_calls(calls: Calls, model: Conversations) -> str:
    """What is wrong about reading back these calls, one at a time; "" if nothing."""
    for call in calls:
        before, answer = model.written(ASKED, call_message([call]))
        read = model.read(before, answer)
        if read.calls != [call] or not read.has_tool_calls or call[0] in read.content:
            return f"{answer!r} was read as {read}"
    return ""


@pytest.mark.long
@pytest.mark.parametrize("calls", [PARIS, CODE], ids=["plain", "code"])
def test_calls_in_the_history_of_real_templates_are_read_back(
    real_templates: dict[str, str], calls: Calls
) -> None:
    names = real_templates.keys() - UNUSABLE - (UNESCAPED if calls is CODE else set())
    wrong = {
        name: lost_calls(calls, Conversations(real_templates[name], TOOLS))
        for name in sorted(names)
    }
    assert {name: what for name, what in wrong.items() if what} == {}


@pytest.mark.parametrize("name", CALL_TEMPLATES)
@pytest.mark.parametrize("calls", [PARIS, CODE], ids=["plain", "code"])
def test_calls_in_the_history_of_our_templates_are_read_back(name: str, calls: Calls) -> None:
    assert lost_calls(calls, Conversations(CALL_TEMPLATES[name], TOOLS)) == ""


@pytest.mark.parametrize("name", CALL_TEMPLATES)
def test_two_calls_of_one_message_are_both_in_the_history(name: str) -> None:
    model = Conversations(CALL_TEMPLATES[name], TOOLS)
    two = [("get", {"city": "Paris"}), ("get_weather", {"city": "Rome"})]
    before, answer = model.written(ASKED, call_message(two))
    assert answer.count("Paris") == answer.count("Rome") == 1
    assert model.read(before, answer).calls[:1] == two[:1]


@pytest.mark.parametrize("name", CALL_TEMPLATES)
def test_our_template_tells_the_syntax_of_its_name(name: str) -> None:
    model = Conversations(CALL_TEMPLATES[name], TOOLS)
    syntax = name.split()[0]
    assert [s.name for s in model.config.parsers.syntaxes] == [syntax]


def test_every_syntax_of_the_table_has_a_template() -> None:
    tested = {name.split()[0] for name in CALL_TEMPLATES}
    same = {"laguna"}  # as glm47
    assert {syntax.name for syntax in SYNTAXES} - tested - same == set()


def rewritten_turns(model: Conversations) -> bool:
    """Whether the ids of a turn are not the beginning of the next turn's, up to its last answer."""
    call = call_message(PARIS)
    result = {"role": "tool", "tool_call_id": "call00000", "name": "get_weather", "content": "sun"}
    answer = {"role": "assistant", "content": "It is sunny."}
    turn = [*ASKED, call, result]
    first = model.tokens(ASKED, asks=False)
    second = model.tokens([*turn, answer, *ASKED], asks=True)
    return second[: len(first)] != first


@pytest.mark.long
def test_turns_of_real_templates_begin_the_next_turn_or_the_log_says_so(
    real_templates: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    open_model.cache_clear()  # the log says so when a model is opened
    told, rewrites = set(), set()
    for name in sorted(real_templates.keys() - UNUSABLE):
        caplog.clear()
        model = Conversations(real_templates[name], TOOLS)
        if "earlier turns" in caplog.text:
            told.add(name)
        if rewritten_turns(model):
            rewrites.add(name)
    assert rewrites - told == set()
