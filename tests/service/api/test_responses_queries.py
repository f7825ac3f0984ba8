"""Query parameters of stored responses: read, or refused by their names."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.conversations.item_list_params import ItemListParams
from openai.types.conversations.item_retrieve_params import ItemRetrieveParams
from openai.types.responses.input_item_list_params import InputItemListParams
from openai.types.responses.response_retrieve_params import ResponseRetrieveParamsStreaming
from starlette.requests import Request

from service.api.responses.shapes.options import Includable
from service.api.responses.shapes.queries import (
    read_include,
    read_page_query,
    read_stream,
)
from service.errors import InvalidRequest
from service.schema.queries import read_number
from service.store.pages import PageQuery
from tests.service.parts import describe

API: dict[str, Any] = json.loads(json.dumps(describe("1.2.3")))
ITEMS = "/v1/conversations/{id}/items"


def query(*pairs: tuple[str, object]) -> Request:
    encoded = urlencode(pairs).encode()
    return Request({"type": "http", "query_string": encoded, "headers": []})


def refused_of(read: Any, *arguments: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read(*arguments)
    return caught.value


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/v1/responses/{id}", ResponseRetrieveParamsStreaming),
        ("/v1/responses/{id}/input_items", InputItemListParams),
        (ITEMS, ItemListParams),
        (f"{ITEMS}/{{item}}", ItemRetrieveParams),
    ],
)
def test_every_query_parameter_of_the_sdk_is_described(path: str, params: type) -> None:
    described = API["paths"][path]["get"]["parameters"]
    in_query = {each["name"] for each in described if each["in"] == "query"}
    in_path = {each["name"] for each in described if each["in"] == "path"}
    assert in_query == set(get_type_hints(params)) - {"conversation_id"}
    assert in_path == {name for name in ("id", "item") if f"{{{name}}}" in path}


@given(number=st.integers(-(10**18), 10**18))
def test_a_number_is_read_as_it_is_written(number: int) -> None:
    assert read_number(query(("n", number)), "n", 7) == number


@given(word=st.text(st.sampled_from("0123456789-+_ .eEx\u0663\u00b2\uff11"), max_size=30))
def test_no_other_word_is_a_number(word: str) -> None:
    digits = word.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) <= 20:
        assert read_number(query(("n", word)), "n", 7) == int(word)
    else:
        assert refused_of(read_number, query(("n", word)), "n", 7).param == "n"


@pytest.mark.parametrize(
    ("name", "value", "page"),
    [
        ("limit", 3, PageQuery(limit=3)),
        ("order", "asc", PageQuery(order="asc")),
        ("after", "a", PageQuery(after="a")),
    ],
)
def test_a_parameter_of_a_page_that_is_given_twice_is_refused(
    name: str, value: object, page: PageQuery
) -> None:
    assert read_page_query(query((name, value))) == page
    assert refused_of(read_page_query, query((name, value), (name, value))).param == name


def test_a_stream_has_flags_that_are_read_or_refused() -> None:
    assert read_stream(query(("stream", "True"), ("include_obfuscation", "false")))
    assert not read_stream(query())
    assert refused_of(read_stream, query(("stream", ""))).param == "stream"
    assert refused_of(read_page_query, query(("order", ""))).param == "order"
    assert refused_of(read_stream, query(("stream", 1), ("stream", 0))).param == "stream"
    for word in "true", "perhaps":
        error = refused_of(read_stream, query(("stream", 1), ("include_obfuscation", word)))
        assert error.param == "include_obfuscation"
    assert refused_of(read_stream, query(("starting_after", 1))).param == "starting_after"


@given(names=st.lists(st.sampled_from([*get_args(Includable), "", "made_up"]), max_size=4))
def test_what_can_be_included_is_read_in_both_spellings(names: list[str]) -> None:
    pairs = [(("include", "include[]")[index % 2], name) for index, name in enumerate(names)]
    if set(names) <= set(get_args(Includable)):
        assert sorted(read_include(query(*pairs))) == sorted(names)
    else:
        assert refused_of(read_include, query(*pairs)).param == "include"
