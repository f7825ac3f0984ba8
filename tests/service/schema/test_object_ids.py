"""The ids of a replica: made with its tag, and told from those of others."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest, StoredObjectNotFound
from service.schema.object_ids import ObjectIds
from service.store.opening import COMMON_OWNER, open_memory_stores

TAGS = st.text("ab01", min_size=1, max_size=16)
HEX = "0123456789abcdef" * 2


def test_without_a_tag_ids_are_untagged_and_no_other_replica_is_known() -> None:
    ids = ObjectIds()
    assert re.fullmatch(r"resp_[0-9a-f]{32}", ids.new("resp"))
    assert ids.explain(f"resp_b_{HEX}") == ""


@given(own=TAGS, other=TAGS)
def test_an_id_is_of_the_replica_that_made_it_and_of_no_other(own: str, other: str) -> None:
    id = ObjectIds(other).new("resp")
    assert re.fullmatch(rf"resp_{other}_[0-9a-f]{{32}}", id)
    said = ObjectIds(own).explain(id)
    words = f"it is of replica `{other}`, and this is replica `{own}`"
    assert said == "" if own == other else words in said


@pytest.mark.parametrize("id", ["resp_ab_1234", "resp_ab_", f"conv_ab_{HEX}", f"msg_ab_{HEX}"])
def test_a_cut_id_still_names_its_replica(id: str) -> None:
    assert "replica `ab`" in ObjectIds("a").explain(id)
    assert "replica `ab`" in ObjectIds("abc").explain(id)


@pytest.mark.parametrize(
    "id",
    [
        "",
        "resp",
        f"resp_{HEX}",
        f"resp_AB_{HEX}",
        f"RESP_ab_{HEX}",
        f"resp_ab_{HEX.upper()}",
        f"resp__{HEX}",
        f"resp_ab_{HEX}0",
        f"resp_ab_{HEX}\n",
        f"resp_{'a' * 17}_{HEX}",
        "msg_my_item",
        f"resp_a_{HEX}",
    ],
)
def test_what_no_other_replica_has_made_is_only_unknown(id: str) -> None:
    assert ObjectIds("a").explain(id) == ""


@pytest.mark.anyio
async def test_a_store_says_which_replica_keeps_what_is_asked_of_it() -> None:
    stores = open_memory_stores(1 << 20, 100.0, tag="a")
    words = "not found: it is of replica `b`, and this is replica `a`"
    response, conversation = f"resp_b_{HEX}", f"conv_b_{HEX}"
    open_ = stores.responses.open
    with pytest.raises(InvalidRequest, match=words) as refused:
        await open_(COMMON_OWNER, "resp_1", previous_response_id=response)
    assert refused.value.param == "previous_response_id"
    with pytest.raises(InvalidRequest, match=words) as refused:
        await open_(COMMON_OWNER, "resp_1", conversation_id=conversation)
    assert refused.value.param == "conversation"
    with pytest.raises(StoredObjectNotFound, match=words):
        await stores.responses.get(COMMON_OWNER, response)
    with pytest.raises(StoredObjectNotFound, match=words):
        await stores.conversations.get(COMMON_OWNER, conversation)


@pytest.mark.anyio
async def test_an_unknown_id_of_this_replica_is_unknown_in_the_usual_words() -> None:
    stores = open_memory_stores(1 << 20, 100.0, tag="a")
    with pytest.raises(InvalidRequest, match="it was evicted, deleted or never stored"):
        await stores.responses.open(COMMON_OWNER, "r", previous_response_id=f"resp_a_{HEX}")
    with pytest.raises(StoredObjectNotFound, match=r"not found\.$"):
        await stores.responses.open(COMMON_OWNER, "r", conversation_id=f"conv_a_{HEX}")
