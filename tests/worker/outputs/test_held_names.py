"""In every family's syntax the names of all calls are held; what a template writes is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.models.call_templates import CALL_TEMPLATES
from tests.models.constrained import ASKED, Constrained, tokens_in
from tests.models.conversations import BYTES, call_message

NAMES = ("find_weather", "obtain")
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            },
        },
    }
    for name in NAMES
]
# Nothing is before a name: its first character tells that it begins.
BARE = {"functionary_v32", "function_tag", "glm47", "longcat", "mistral", "pythonic"}
CALLS = [(NAMES[0], {"city": "Paris"}), (NAMES[1], {"city": "Rome", "days": 3})]


@pytest.mark.parametrize("name", CALL_TEMPLATES)
def test_the_names_of_both_calls_are_held_and_nothing_that_the_family_writes_is_refused(
    name: str,
) -> None:
    held = Constrained(CALL_TEMPLATES[name], TOOLS, required=False)
    _, answer = held.model.written(ASKED, call_message(CALLS))
    constraint = held.free()
    masks: list[set[int] | None] = []
    text = ""
    places = []
    for token in held.model.encode(answer):
        mask = constraint.mask()
        allowed = None if mask is None else tokens_in(mask)
        assert allowed is None or token in allowed, text
        masks.append(allowed)
        places.append(len(text))
        text += held.model.config.token_bytes(token).decode("latin-1")
        constraint.accept(token)
    starts = {BYTES[ord(each[0])] for each in NAMES}
    for each in NAMES:
        first = places.index(text.rindex(each))
        assert masks[first] == (None if name in BARE else starts)
        assert all(masks[first + n] == {BYTES[ord(c)]} for n, c in enumerate(each) if n)
