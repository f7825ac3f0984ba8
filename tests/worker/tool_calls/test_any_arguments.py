"""Any arguments that a template writes are read back equal, wherever the answer is cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.models.call_templates import CALL_TEMPLATES
from tests.models.conversations import Conversations, Message, call_message

SCHEMAS: dict[str, Any] = {
    "text": {"type": "string"},
    "maybe": {"type": ["string", "integer"]},
    "count": {"type": "integer"},
    "ratio": {"type": "number"},
    "flag": {"type": "boolean"},
    "nothing": {"type": "null"},
    "words": {"type": "array", "items": {"type": "string"}},
    "sizes": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "object"}},
    },
}
TOOL = {
    "type": "function",
    "function": {
        "name": "store",
        "description": "Stores values.",
        "parameters": {"type": "object", "properties": SCHEMAS},
    },
}
# Another cut is tried in each run.
CUT_STEP = 3
ASKED: list[Message] = [{"role": "user", "content": "Store."}]
MARKERS = ("</tool_call>", "</parameter>", "</function>", "null", "10001", "```", "<|im_end|>")

strings = st.text(st.sampled_from("ab \n\t\"'\\{}[]<>/&=:,é日😀01"), max_size=12) | st.sampled_from(
    MARKERS
)
numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(10**20), 10**20)
sizes = st.fixed_dictionaries(
    {}, optional={"a": integers, "b": st.dictionaries(st.sampled_from("xyz"), st.booleans())}
)
arguments = st.fixed_dictionaries(
    {},
    optional={
        "text": strings,
        "maybe": strings,
        "count": integers,
        "ratio": numbers,
        "flag": st.booleans(),
        "nothing": st.none(),
        "words": st.lists(strings, max_size=3),
        "sizes": sizes,
    },
)


@pytest.fixture(scope="module", params=CALL_TEMPLATES)
def model(
    request: pytest.FixtureRequest,
) -> Conversations:
    return Conversations(CALL_TEMPLATES[request.param], [TOOL])


@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(arguments)
def test_any_arguments_are_read_back_equal(model: Conversations, values: dict[str, Any]) -> None:
    before, answer = model.written(ASKED, call_message([("store", values)]))
    read = model.read(before, answer)
    assert read.calls == [("store", values)]
    assert (read.content.strip(), read.has_tool_calls) == ("", True)


@settings(max_examples=1, suppress_health_check=[HealthCheck.too_slow])
@given(arguments, st.integers(1, CUT_STEP))
def test_a_cut_call_is_text_or_the_beginning_of_the_call(
    model: Conversations, values: dict[str, Any], first: int
) -> None:
    before, answer = model.written(ASKED, call_message([("store", values)]))
    [whole] = model.read(before, answer).arguments
    for end in range(first, len(answer), CUT_STEP):
        read = model.read(before, answer[:end], truncated=True)
        if read.names:
            assert read.names == ["store"]
            assert whole.startswith(read.arguments[0])
            assert "store" not in read.content
        else:
            assert read.arguments == []
            assert read.content.strip() == "" or answer[:end].endswith(read.content)
