"""Pages of the models for Anthropic's clients."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from service.errors import InvalidRequest
from service.ops.model_list import to_anthropic_list
from service.schema.models import AnthropicModelList, Model, ModelList

NAMES = [f"m{n}" for n in range(7)]
MODELS = ModelList(
    data=[Model(id=name, created=1, loaded=True, context_length=4096) for name in NAMES]
)


def page(**query: Any) -> AnthropicModelList:
    encoded = urlencode(query, doseq=True).encode()
    request = Request({"type": "http", "query_string": encoded, "headers": []})
    return to_anthropic_list(MODELS, request)


def test_without_a_query_all_models_are_on_one_page() -> None:
    whole = page()
    assert [model.id for model in whole.data] == NAMES
    assert (whole.has_more, whole.first_id, whole.last_id) == (False, NAMES[0], NAMES[-1])
    assert page(lifecycle="active,retired") == page(**{"lifecycle[]": ["active"]}) == whole


@given(limit=st.integers(1, 9))
def test_the_pages_in_either_direction_have_each_model_once(limit: int) -> None:
    forward: list[str] = []
    query: dict[str, Any] = {}
    while (shown := page(limit=limit, **query)).has_more or shown.data:
        forward += [model.id for model in shown.data]
        assert len(shown.data) <= limit
        assert shown.has_more == (forward != NAMES)
        query = {"after_id": shown.last_id}
    assert (shown.first_id, shown.last_id) == (None, None)
    backward = [NAMES[-1]]
    while (shown := page(limit=limit, before_id=backward[0])).data:
        backward = [model.id for model in shown.data] + backward
        assert shown.has_more == (backward != NAMES)
    assert forward == backward == NAMES


def test_no_model_is_deprecated() -> None:
    assert page(lifecycle="deprecated") == AnthropicModelList(data=[], first_id=None, last_id=None)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "all"}, "limit"),
        ({"limit": [1, 2]}, "limit"),
        ({"after_id": "m9"}, "after_id"),
        ({"before_id": ""}, "before_id"),
        ({"after_id": "m1", "before_id": "m3"}, "before_id"),
        ({"lifecycle": "old"}, "lifecycle"),
    ],
)
def test_a_page_that_cannot_be_is_refused_by_its_parameter(
    query: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        page(**query)
    assert caught.value.param == param
