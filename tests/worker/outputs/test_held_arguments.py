"""In every syntax the arguments of strict tools are held, also of calls that are not required."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models.call_templates import CALL_TEMPLATES
from tests.models.constrained import ASKED, Constrained, allows
from tests.models.conversations import call_message

PROPERTIES: dict[str, Any] = {
    "city": {"type": "string"},
    "unit": {"type": "string", "enum": ["c", "f g"]},
    "days": {"type": "integer"},
    "hot": {"type": "boolean"},
    "tags": {"type": "array", "items": {"type": "string"}},
}
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "strict": True,
            "parameters": {"type": "object", "properties": PROPERTIES, "required": required},
        },
    }
    for name, required in (("find_weather", ["city"]), ("find", []))
]
WHOLE = {"city": 'A "b" <c>\n</d>', "unit": "f g", "days": -2, "hot": True, "tags": ["a", "b"]}
RIGHT = [
    ("find_weather", WHOLE),
    ("find", {}),
    ("find", {"days": 3}),
    ("find_weather", {"city": ""}),
]
WRONG = [
    {"city": "Paris", "unit": "k"},
    {"city": "Paris", "days": "two"},
    {"city": "Paris", "other": "x"},
    {"days": 2},
]
# A list of Python is text until the answer has ended, so it is not held.
NOT_HELD = {"python_list"}
HELD = [name for name in CALL_TEMPLATES if name not in NOT_HELD]


@pytest.fixture(scope="module", params=HELD)
def held(request: pytest.FixtureRequest) -> Constrained:
    return Constrained(CALL_TEMPLATES[request.param], TOOLS, required=False)


def refused_at(held: Constrained, answer: str) -> str | None:
    """The text before the first token that is not allowed; None if all of them are."""
    constraint, text = held.free(), ""
    for token in held.model.encode(answer):
        mask = constraint.mask()
        if mask is not None and not allows(mask, token):
            return text
        text += held.model.config.token_bytes(token).decode("latin-1")
        constraint.accept(token)
    return None


def written(held: Constrained, calls: list[tuple[str, Any]]) -> str:
    _, answer = held.model.written(ASKED, call_message(calls))
    return answer


def test_what_the_family_writes_is_allowed(held: Constrained) -> None:
    for call in RIGHT:
        assert refused_at(held, written(held, [call]) + "\nAnd more.") is None, call


def test_both_calls_of_an_answer_are_allowed(held: Constrained) -> None:
    assert refused_at(held, written(held, RIGHT[:2])) is None


@pytest.mark.parametrize("arguments", WRONG)
def test_what_misses_the_schema_is_refused_within_the_call(
    held: Constrained, arguments: dict[str, Any]
) -> None:
    answer = written(held, [("find_weather", arguments)])
    before = refused_at(held, answer)
    assert before is not None
    assert "find_weather" in before


def test_the_second_call_is_held_too(held: Constrained) -> None:
    answer = written(held, [("find", {"days": 3}), ("find_weather", WRONG[0])])
    before = refused_at(held, answer)
    assert before is not None
    assert "find_weather" in before


UNCLOSED = {
    "qwen3_coder": [
        "<tool_call>\n<function=find_weather>\n<parameter=city>\nParis\n</function>\n</tool_call>",
        "<tool_call>\n<function=find>\n<parameter=days>\n2\n</function>\n</tool_call>",
        "<tool_call>\n<function=find_weather>\n<parameter=city>\nA\n<parameter=days>\n2\n</function>",
    ],
    "glm47": [
        "<tool_call>find_weather\n<arg_key>city</arg_key>\n<arg_value>Paris\n</tool_call>",
    ],
}


@pytest.mark.parametrize("name", UNCLOSED)
def test_a_closing_tag_may_be_left_out(name: str) -> None:
    model = Constrained(CALL_TEMPLATES[name], TOOLS, required=False)
    for answer in UNCLOSED[name]:
        assert refused_at(model, answer) is None, answer


@pytest.mark.parametrize("name", ["qwen3_coder", "glm47", "gemma4", "pythonic", "minimax_m2"])
def test_arguments_that_are_no_json_of_a_tool_that_is_not_strict_are_given_as_they_stand(
    name: str,
) -> None:
    tools = [{**tool, "function": {**tool["function"], "strict": False}} for tool in TOOLS]
    model = Constrained(CALL_TEMPLATES[name], tools, required=False)
    for arguments in WRONG:
        assert refused_at(model, written(model, [("find_weather", arguments)])) is None


def test_a_name_in_a_sentence_holds_nothing(held: Constrained) -> None:
    assert refused_at(held, "I could use find_weather(city) or find: 'unit': k") is None
