"""/v1/conversations as the `openai` package uses them, and responses in them."""

from __future__ import annotations

from typing import Any

import openai
import pytest


def test_a_conversation_is_made_read_changed_and_deleted(client: openai.OpenAI) -> None:
    items: Any = [{"type": "message", "role": "user", "content": "One"}]
    made = client.conversations.create(items=items, metadata={"of": "a"})
    assert made.id.startswith("conv_")
    assert client.conversations.retrieve(made.id).metadata == {"of": "a"}
    assert client.conversations.update(made.id, metadata={"of": "b"}).metadata == {"of": "b"}
    added = client.conversations.items.create(made.id, items=items).data
    listed = client.conversations.items.list(made.id, order="asc").data
    assert [item.id for item in listed][-1] == added[0].id
    assert len(listed) == 2
    one = client.conversations.items.retrieve(listed[0].id or "", conversation_id=made.id)
    assert one.id == listed[0].id
    client.conversations.items.delete(listed[0].id or "", conversation_id=made.id)
    assert len(client.conversations.items.list(made.id).data) == 1
    deleted = client.conversations.delete(made.id)
    assert (deleted.deleted, deleted.object) == (True, "conversation.deleted")
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)


def test_responses_go_on_in_a_conversation(client: openai.OpenAI) -> None:
    made = client.conversations.create()
    asked: dict[str, Any] = {"model": "default", "max_output_tokens": 5, "temperature": 0}
    first = client.responses.create(input="One", conversation=made.id, **asked)
    assert first.conversation is not None
    assert first.conversation.id == made.id
    listed = client.conversations.items.list(made.id, order="asc").data
    assert [item.id for item in listed][-1] == first.output[-1].id
    assert len(listed) == 1 + len(first.output)
    second = client.responses.create(input="Two", conversation=made.id, **asked)
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    with pytest.raises(openai.NotFoundError):
        client.responses.create(input="x", conversation="conv_" + "0" * 32, **asked)


def test_reasoning_is_listed_with_its_encoded_form_where_it_is_asked_for(
    client: openai.OpenAI,
) -> None:
    thought: Any = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    made = client.conversations.create(items=[thought])
    items = client.conversations.items
    include: Any = ["reasoning.encrypted_content"]
    plain = items.list(made.id).data[0]
    assert plain.type == "reasoning"
    assert plain.encrypted_content is None
    listed = items.list(made.id, include=include).data[0]
    read = items.retrieve(plain.id or "", conversation_id=made.id, include=include)
    added = items.create(made.id, items=[thought], include=include).data[0]
    for item in listed, read, added:
        assert item.type == "reasoning"
        assert (item.encrypted_content or "").startswith("mlxd1.")
    unknown: Any = ["everything"]
    with pytest.raises(openai.BadRequestError) as caught:
        items.list(made.id, include=unknown)
    assert caught.value.param == "include"
