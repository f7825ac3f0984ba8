"""Values as msgpack: as msgspec has them, but for integers that it cannot hold."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.encoding import INT_MAX, INT_MIN, encode
from protocol.messages import ChatPrompt, Sampling, Submit

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | texts | st.integers(INT_MIN, INT_MAX) | st.floats()
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=9
)


def submit(tool: Any) -> Submit:
    prompt = ChatPrompt([{"role": "user", "content": "x"}], tools=[tool])
    return Submit(id=1, model="m", prompt=prompt, sampling=Sampling(7, logit_bias={5: 1.0}))


@given(values)
def test_what_msgpack_holds_is_msgspecs(value: Any) -> None:
    assert encode(submit({"a": value})) == msgspec.msgpack.encode(submit({"a": value}))


@given(values, st.integers(max_value=INT_MIN - 1) | st.integers(min_value=INT_MAX + 1))
def test_a_larger_integer_is_the_nearest_float_and_nothing_else_changes(
    value: Any, large: int
) -> None:
    both = submit({"a": value, "b": [{"c": large}]})
    assert encode(both) == encode(submit({"a": value, "b": [{"c": float(large)}]}))
    assert msgspec.msgpack.decode(encode(both), type=Submit).sampling == both.sampling


@pytest.mark.parametrize("large", [10**400, -(10**400)], ids=["positive", "negative"])
def test_an_integer_beyond_all_floats_is_its_text(large: int) -> None:
    assert msgspec.msgpack.decode(encode({"a": large})) == {"a": str(large)}
