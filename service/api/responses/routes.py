"""The rows of the route table for responses and conversations."""

from __future__ import annotations

from service.api.responses.background import BackgroundRuns
from service.api.responses.conversation_endpoints import ConversationEndpoints
from service.api.responses.endpoint import ResponsesEndpoint
from service.api.responses.format import ResponseFormat
from service.api.responses.retrieval import DeletedResponse, RetrievalEndpoints
from service.api.responses.shapes.conversations import (
    ConversationItem,
    ConversationObject,
    ConversationUpdate,
    DeletedConversation,
    NewConversation,
    NewItems,
)
from service.api.responses.shapes.queries import INCLUDE, PAGE, RETRIEVAL
from service.api.responses.shapes.request import ResponseRequest, TokenCountRequest
from service.api.responses.shapes.response import InputTokens, Response, ResponseEvent
from service.api.responses.stored import ItemList
from service.generation.submitter import Submitter
from service.openapi.descriptions import (
    MEDIA_TYPE_ERRORS,
    describe_generation,
    describe_stored,
    describe_tokenization,
)
from service.openapi.operation import Operation
from service.store.opening import Stores

ENDING = " with further fields by its type; the last one has the whole response."
RESPONSES = "/v1/responses"
RESPONSE = f"{RESPONSES}/{{id}}"
CONVERSATIONS = "/v1/conversations"
CONVERSATION = f"{CONVERSATIONS}/{{id}}"
ITEMS = f"{CONVERSATION}/items"


def list_response_operations(
    response_format: ResponseFormat,
    submitter: Submitter,
    stores: Stores,
    *,
    keep_alive_s: float,
) -> list[Operation]:
    """The endpoints of responses and conversations."""
    runs = BackgroundRuns()
    endpoint = ResponsesEndpoint(
        response_format, submitter, stores, runs, keep_alive_s=keep_alive_s
    )
    thinking = response_format.thinking
    stored = RetrievalEndpoints(stores, thinking, runs, keep_alive_s=keep_alive_s)
    conversations = ConversationEndpoints(submitter, stores, thinking)
    return [
        Operation(
            "POST",
            RESPONSES,
            endpoint.create,
            description=describe_generation(
                "createResponse",
                "Create a response.",
                request=ResponseRequest,
                response=Response,
                chunk=ResponseEvent,
                ending=ENDING,
                strict_max_tokens=not submitter.has_ceilings,
            ),
            aliases=(alias_of(RESPONSES),),
            kind="generation",
            request=ResponseRequest,
            schemas=(Response, ResponseEvent),
        ),
        Operation(
            "POST",
            f"{RESPONSES}/input_tokens",
            endpoint.count,
            describe_tokenization(
                "countInputTokens",
                "Count the tokens of a response's input.",
                request=TokenCountRequest,
                responses=[InputTokens],
            ),
            aliases=(alias_of(f"{RESPONSES}/input_tokens"),),
            kind="tokenization",
            request=TokenCountRequest,
            schemas=(InputTokens,),
        ),
        *list_stored_operations(stored),
        *list_conversation_operations(conversations),
    ]


def list_stored_operations(stored: RetrievalEndpoints) -> list[Operation]:
    """The endpoints of stored responses."""
    get = describe_stored(
        "retrieveResponse", "Read a stored response, or its events.", Response, query=RETRIEVAL
    )
    delete = describe_stored("deleteResponse", "Delete a response.", DeletedResponse)
    cancel = describe_stored(
        "cancelResponse", "Cancel a background response.", Response, errors=MEDIA_TYPE_ERRORS
    )
    items = describe_stored(
        "listInputItems", "List what a response was made of.", ItemList, query=PAGE
    )
    paths = f"{RESPONSE}/cancel", f"{RESPONSE}/input_items"
    alias = (alias_of(RESPONSE),)
    return [
        Operation("GET", RESPONSE, stored.get, get, aliases=alias),
        Operation(
            "DELETE", RESPONSE, stored.delete, delete, aliases=alias, schemas=(DeletedResponse,)
        ),
        Operation("POST", paths[0], stored.cancel, cancel, aliases=(alias_of(paths[0]),)),
        Operation(
            "GET",
            paths[1],
            stored.list_inputs,
            items,
            aliases=(alias_of(paths[1]),),
            schemas=(ItemList,),
        ),
    ]


def list_conversation_operations(made: ConversationEndpoints) -> list[Operation]:
    """The endpoints of conversations."""
    create = describe_stored(
        "createConversation",
        "Create a conversation.",
        ConversationObject,
        request=NewConversation,
        needs_body=False,
    )
    get = describe_stored("retrieveConversation", "Read a conversation.", ConversationObject)
    update = describe_stored(
        "updateConversation",
        "Replace the metadata.",
        ConversationObject,
        request=ConversationUpdate,
    )
    delete = describe_stored("deleteConversation", "Delete a conversation.", DeletedConversation)
    add = describe_stored(
        "createConversationItems",
        "Add up to 20 items.",
        ItemList,
        request=NewItems,
        query=[INCLUDE],
    )
    listed = describe_stored("listConversationItems", "List the items.", ItemList, query=PAGE)
    item = describe_stored(
        "retrieveConversationItem", "Read an item.", ConversationItem, query=[INCLUDE]
    )
    drop = describe_stored("deleteConversationItem", "Remove an item.", ConversationObject)
    new, changed = (NewConversation, ConversationObject), (ConversationUpdate,)
    one = f"{ITEMS}/{{item}}"
    return [
        Operation("POST", CONVERSATIONS, made.create, create, schemas=new),
        Operation("GET", CONVERSATION, made.get, get),
        Operation("POST", CONVERSATION, made.update, update, schemas=changed),
        Operation("DELETE", CONVERSATION, made.delete, delete, schemas=(DeletedConversation,)),
        Operation("POST", ITEMS, made.add_items, add, schemas=(NewItems,)),
        Operation("GET", ITEMS, made.list_items, listed),
        Operation("GET", one, made.get_item, item, schemas=(ConversationItem,)),
        Operation("DELETE", one, made.delete_item, drop),
    ]


def alias_of(path: str) -> str:
    """The path without the version."""
    return path.removeprefix("/v1")
