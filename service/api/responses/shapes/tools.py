"""The tools of a response: functions, functions in namespaces, custom tools, and hosted ones.

A model is offered functions alone. A function of a namespace is offered under a joined name, and
a custom tool as a function with one text; their calls come back as what they were declared as.
Hosted tools run at OpenAI: they are left out where the tool choice can be met without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union

import msgspec
from msgspec import Meta

from service.api.responses.shapes.hosted_tools import HOSTED_TOOLS, HostedTool
from service.errors import InvalidRequest
from service.schema.strict import find_violation
from service.schema.tools import NO_PARAMETERS, invalid_tool

MAX_TOOLS = 512
SEPARATORS = (".", "__", "-", "_in_", "_of_")
INPUT = "input"
CUSTOM_PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {INPUT: {"type": "string"}},
    "required": [INPUT],
    "additionalProperties": False,
}

# The second part is needed because `$` also matches before a trailing line break.
ToolName = Annotated[str, Meta(max_length=128, pattern=r"^[a-zA-Z0-9_.-]+$(?!\n)")]
Callers = list[Literal["direct"]]


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A declared tool."""


class FunctionTool(Tool, frozen=True, kw_only=True, tag="function"):
    """A function; `parameters` is a JSON schema of an object, to which arguments conform.

    Without `strict` it is true if the schema keeps OpenAI's rules for strict schemas.
    """

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    # Labels, and values that leave things as they are.
    output_schema: dict[str, Any] | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: Callers | None = None
    is_async: Literal[False] | None = msgspec.field(name="async", default=None)


class TextInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input of a custom tool: any text. Grammars are not supported."""

    type: Literal["text"]


class CustomTool(Tool, frozen=True, kw_only=True, tag="custom"):
    """A tool whose input is any text."""

    name: ToolName
    description: str | None = None
    format: TextInput | None = None
    defer_loading: Literal[False] | None = None
    allowed_callers: Callers | None = None
    is_async: Literal[False] | None = msgspec.field(name="async", default=None)


class NamespaceTool(Tool, frozen=True, kw_only=True, tag="namespace"):
    """A group of tools under one name."""

    name: ToolName
    description: str | None = None
    tools: Annotated[list[FunctionTool | CustomTool], Meta(max_length=MAX_TOOLS)]


if TYPE_CHECKING:
    AnyTool = FunctionTool | CustomTool | NamespaceTool | HostedTool
else:
    AnyTool = Union[FunctionTool, CustomTool, NamespaceTool, *HOSTED_TOOLS]
Tools = Annotated[list[AnyTool], Meta(max_length=MAX_TOOLS)]


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A tool choice that is an object."""


class ChosenFunction(Choice, frozen=True, tag="function"):
    """This function must be called."""

    name: str
    namespace: str | None = None


class ChosenCustom(Choice, frozen=True, tag="custom"):
    """This custom tool must be called."""

    name: str
    namespace: str | None = None


if TYPE_CHECKING:
    ChosenTool = ChosenFunction | ChosenCustom | HostedTool
else:
    ChosenTool = Union[ChosenFunction, ChosenCustom, *HOSTED_TOOLS]


class ChosenAmong(Choice, frozen=True, tag="allowed_tools"):
    """Only these tools may be called, or one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[ChosenTool], Meta(min_length=1, max_length=MAX_TOOLS)]


ToolChoice = Literal["none", "auto", "required"] | ChosenTool | ChosenAmong


class Offered(NamedTuple):
    """A function that the model is offered: `name` joins that of its namespace with its own.

    `path` is its place in the request.
    """

    name: str
    tool: FunctionTool | CustomTool
    path: str
    namespace: str | None = None
    namespace_text: str = ""

    @property
    def is_custom(self) -> bool:
        """Whether the client declared it as a custom tool."""
        return isinstance(self.tool, CustomTool)

    def describe(self) -> dict[str, Any]:
        """The function as a tool for chat templates."""
        texts = [text for text in (self.namespace_text, self.tool.description) if text]
        fields: dict[str, Any] = {"name": self.name}
        if texts:
            fields["description"] = "\n\n".join(texts)
        fields["parameters"] = CUSTOM_PARAMETERS
        if isinstance(self.tool, FunctionTool):
            fields["parameters"] = self.tool.parameters or NO_PARAMETERS
        return {"type": "function", "function": fields}


def offer(tools: list[AnyTool]) -> list[Offered]:
    """The functions that the model is offered, in the order of their declaration.

    Raises:
        InvalidRequest: a function is declared twice, or its schema is invalid.
    """
    taken = {tool.name for tool in tools if isinstance(tool, FunctionTool | CustomTool)}
    offered: dict[str, Offered] = {}
    for index, tool in enumerate(tools):
        path = f"tools[{index}]"
        match tool:
            case FunctionTool() | CustomTool():
                _add(offered, Offered(tool.name, tool, path))
            case NamespaceTool():
                separator = _find_separator(tool, taken)
                for inner, member in enumerate(tool.tools):
                    name = f"{tool.name}{separator}{member.name}"
                    place = f"{path}.tools[{inner}]"
                    own = Offered(name, member, place, tool.name, tool.description or "")
                    _add(offered, own)
                taken |= {f"{tool.name}{separator}{member.name}" for member in tool.tools}
    return list(offered.values())


def list_left_out(tools: list[AnyTool]) -> list[str]:
    """The places of the hosted tools."""
    return [f"tools[{n}]" for n, tool in enumerate(tools) if isinstance(tool, HostedTool)]


def echo(tool: FunctionTool | CustomTool | NamespaceTool) -> dict[str, Any]:
    """The tool as the response has it, with the effective `strict`."""
    fields: dict[str, Any] = {"name": tool.name, "description": tool.description}
    match tool:
        case FunctionTool():
            schema = tool.parameters or NO_PARAMETERS
            strict = find_violation(schema) is None if tool.strict is None else tool.strict
            return {"type": "function", **fields, "parameters": schema, "strict": strict}
        case CustomTool():
            return {"type": "custom", **fields, "format": {"type": "text"}}
        case NamespaceTool():
            return {"type": "namespace", **fields, "tools": [echo(each) for each in tool.tools]}


def _find_separator(tool: NamespaceTool, taken: set[str]) -> str:
    names = [member.name for member in tool.tools]
    for separator in SEPARATORS:
        if taken.isdisjoint(f"{tool.name}{separator}{name}" for name in names):
            return separator
    return "_" * len(max((tool.name, *taken, *names), key=len))


def _add(offered: dict[str, Offered], new: Offered) -> None:
    path = new.path
    if new.name in offered:
        raise invalid_tool(f"{path}.name", f"`{path}.name`: `{new.tool.name}` is declared twice.")
    if isinstance(new.tool, FunctionTool):
        check_schema(new.tool, path)
    offered[new.name] = new


def check_schema(tool: FunctionTool, path: str) -> None:
    """Refuse a schema that is not of an object, or that is not strict although it should be.

    Raises:
        InvalidRequest: the schema is invalid.
    """
    parameters = tool.parameters or NO_PARAMETERS
    if parameters.get("type", "object") != "object":
        message = f"`{path}.parameters` must be the schema of an object."
        raise invalid_tool(f"{path}.parameters", message, "invalid_function_parameters")
    if tool.strict and (violation := find_violation(parameters)) is not None:
        message = f"Invalid schema for function '{tool.name}': {violation}."
        raise invalid_tool(f"{path}.parameters", message)


def refuse_hosted(param: str, kind: str) -> InvalidRequest:
    """The error for a hosted tool that the request cannot do without."""
    message = f"`{param}`: tools of type `{kind}` run at OpenAI: this server has none."
    return InvalidRequest(message, param=param, code="unsupported_tool")
