"""Items to the messages of a chat template.

Consecutive items of the assistant are one message: its reasoning, text and calls. The results of
its calls follow in the order of the calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from protocol.events import Origin
from service.api.responses.shapes.items import (
    CustomCallItem,
    CustomOutputItem,
    FunctionCallItem,
    FunctionOutputItem,
    InputItem,
    ItemReference,
    MessageItem,
    ReasoningItem,
    text_of,
)
from service.api.responses.shapes.tools import INPUT, Offered
from service.errors import InvalidRequest, excerpt

BLANK_LINE = "\n\n"
# Of what is not in the request's input: its instructions, and the items before it.
NO_INDEX = -1


@dataclass(slots=True)
class AssistantTurn:
    """What the assistant said in consecutive items."""

    reasoning: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def to_message(self) -> dict[str, Any]:
        """The turn as one message."""
        message: dict[str, Any] = {"role": "assistant", "content": BLANK_LINE.join(self.texts)}
        if reasoning := BLANK_LINE.join(filter(None, self.reasoning)):
            message["reasoning_content"] = reasoning
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class Conversation:
    """The messages of the items added so far."""

    def __init__(self, names: Mapping[tuple[str, str | None], str]) -> None:
        self._names = names
        self._messages: list[dict[str, Any]] = []
        # For each message, and for the turn and the results that are no message yet, the index of
        # its first item.
        self.indexes: list[int] = []
        self._index = self._turn_index = NO_INDEX
        self._result_indexes: dict[str, int] = {}
        self._turn: AssistantTurn | None = None
        # The calls so far: their position among the calls of their turn.
        self._calls: dict[str, int] = {}
        # The results that follow the last turn.
        self._results: list[dict[str, Any]] = []

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All messages."""
        self._end_results()
        self._end_turn()
        return self._messages

    def add(self, item: InputItem, path: str, index: int = NO_INDEX) -> None:
        """Append one item, which is at `index` of the request's input.

        Raises:
            InvalidRequest: it is the result of a call that is not among the items before it.
        """
        self._index = index
        match item:
            case MessageItem(role="assistant"):
                self._open_turn().texts.append(text_of(item.content))
            case MessageItem(role=role):
                self._end_results()
                self._end_turn()
                self._messages.append({"role": role, "content": text_of(item.content)})
                self.indexes.append(index)
            case ReasoningItem():
                if text := item.text:
                    self._open_turn().reasoning.append(text)
            case FunctionCallItem():
                self._add_call(item.call_id, self._name_of(item), item.arguments)
            case CustomCallItem():
                arguments = msgspec.json.encode({INPUT: item.input}).decode()
                self._add_call(item.call_id, self._name_of(item), arguments)
            case FunctionOutputItem() | CustomOutputItem():
                self._add_result(item, path)
            case ItemReference():
                message = f"`{path}.id`: no item `{excerpt(item.id or '', 64)}` is stored."
                raise InvalidRequest(message, param=f"{path}.id", code="item_not_found")

    def _name_of(self, call: FunctionCallItem | CustomCallItem) -> str:
        """The name under which the called tool is offered, or was in an earlier request."""
        joined = call.name if call.namespace is None else f"{call.namespace}.{call.name}"
        return self._names.get((call.name, call.namespace), joined)

    def _open_turn(self) -> AssistantTurn:
        self._end_results()
        if self._turn is None:
            self._turn, self._turn_index = AssistantTurn(), self._index
        return self._turn

    def _add_call(self, id: str, name: str, arguments: str) -> None:
        turn = self._open_turn()
        self._calls[id] = len(turn.calls)
        function = {"name": name, "arguments": arguments}
        turn.calls.append({"id": id, "type": "function", "function": function})

    def _add_result(self, item: FunctionOutputItem | CustomOutputItem, path: str) -> None:
        if item.call_id not in self._calls:
            message = (
                f"`{path}`: No tool call found for function call output with call_id "
                f"{excerpt(item.call_id, 64)}."
            )
            raise InvalidRequest(message, param=path, code="invalid_value")
        self._end_turn()
        content = text_of(item.output)
        self._results.append({"role": "tool", "content": content, "tool_call_id": item.call_id})
        self._result_indexes[item.call_id] = self._index

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._messages.append(self._turn.to_message())
            self.indexes.append(self._turn_index)
            self._turn = None

    def _end_results(self) -> None:
        self._results.sort(key=lambda each: self._calls[each["tool_call_id"]])
        self._messages += self._results
        self.indexes += [self._result_indexes[each["tool_call_id"]] for each in self._results]
        self._results = []


def to_messages(
    items: Iterable[InputItem],
    *,
    earlier: Sequence[InputItem] = (),
    instructions: str | None = None,
    offered: Iterable[Offered] = (),
    origins: list[Origin] | None = None,
) -> list[dict[str, Any]]:
    """The messages of `items`, after those of `earlier` ones and the instructions.

    `origins` gets for each message the index of its first item, and its role.

    Raises:
        InvalidRequest: the items are no conversation; the error names one of `items`.
    """
    names = {(each.tool.name, each.namespace): each.name for each in offered}
    conversation = Conversation(names)
    for item in earlier:
        conversation.add(item, "input")
    for index, item in enumerate(items):
        conversation.add(item, f"input[{index}]", index)
    first = [] if instructions is None else [{"role": "system", "content": instructions}]
    messages = [*first, *conversation.messages]
    if origins is not None:
        indexes = [*(NO_INDEX for _ in first), *conversation.indexes]
        origins += [
            Origin(index, message["role"]) for index, message in zip(indexes, messages, strict=True)
        ]
    return messages
