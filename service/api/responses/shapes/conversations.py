"""/v1/conversations: requests and answers."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from service.api.responses.shapes.items import InputItem, ItemReference, add_type
from service.errors import InvalidRequest
from service.schema.parameters import Metadata

MAX_ITEMS = 20

Items = Annotated[list[InputItem], Meta(max_length=MAX_ITEMS)]


class ConversationBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of a request for a conversation."""

    @classmethod
    def complete(cls, document: Any) -> None:
        """Set the types that items may leave out."""
        items = document.get("items") if isinstance(document, dict) else None
        for item in items if isinstance(items, list) else ():
            add_type(item)

    def check(self) -> None:
        """Check the rules beyond the types.

        Raises:
            InvalidRequest: an item is a reference.
        """
        for index, item in enumerate(getattr(self, "items", None) or []):
            if isinstance(item, ItemReference):
                param = f"items[{index}].type"
                message = f"`{param}`: a conversation takes no references to items."
                raise InvalidRequest(message, param=param, code="invalid_value")


class NewConversation(ConversationBody, frozen=True, kw_only=True):
    """A conversation to create, with its first items."""

    items: Items | None = None
    metadata: Metadata | None = None


class ConversationUpdate(ConversationBody, frozen=True, kw_only=True):
    """The new metadata of a conversation."""

    metadata: Metadata


class NewItems(ConversationBody, frozen=True, kw_only=True):
    """Items to add to a conversation."""

    items: Items


class ConversationObject(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation. `created_at` is Unix time in seconds."""

    id: str
    object: str = "conversation"
    created_at: int
    metadata: dict[str, str]


class ConversationItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item of a conversation, with further fields by its type."""

    id: str
    type: str


class DeletedConversation(msgspec.Struct, frozen=True):
    """The answer to a deletion."""

    id: str
    object: str = "conversation.deleted"
    deleted: bool = True
