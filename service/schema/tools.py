"""Tools: those that a request declares, and those that the answer may or must call.

OpenAI's deprecated `functions` and `function_call` are an older form of the same; their
responses keep the older shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from protocol.messages import ToolUse
from service.errors import InvalidRequest, excerpt
from service.schema.strict import find_violation

# Agents with several MCP servers have more tools than OpenAI takes, and longer names.
MAX_TOOLS = 512
MAX_NAME_CHARS = 128

# The second part is needed because `$` also matches before a trailing line break.
FunctionName = Annotated[str, Meta(max_length=MAX_NAME_CHARS, pattern=r"^[a-zA-Z0-9_.-]+$(?!\n)")]
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that the model may call; `parameters` is a JSON schema of an object.

    With `strict` the schema must follow OpenAI's rules for strict schemas, and the arguments
    conform to it exactly; otherwise the request is refused.
    """

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A tool of one type."""


class DeclaredFunction(FunctionTool, frozen=True, tag="function"):
    """A tool that is a function."""

    function: Function


class DeclaredCustom(FunctionTool, frozen=True, tag="custom"):
    """A tool with free-form input; it is refused."""

    custom: dict[str, Any]


class NamedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The name of a function."""

    name: str


class AllowedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A declared tool that may be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A subset of the declared tools; with mode `required` one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedFunction], Meta(min_length=1, max_length=MAX_TOOLS)]


class ToolChoiceObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A tool choice that is an object."""


class ChooseFunction(ToolChoiceObject, frozen=True, tag="function"):
    """This function must be called."""

    function: NamedFunction


class ChooseAllowed(ToolChoiceObject, frozen=True, tag="allowed_tools"):
    """Only these tools may be called, or one of them must be called."""

    allowed_tools: AllowedTools


class ChooseCustom(ToolChoiceObject, frozen=True, tag="custom"):
    """A custom tool; it is refused."""

    custom: NamedFunction


Tools = Annotated[list[DeclaredFunction | DeclaredCustom], Meta(max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | ChooseFunction | ChooseAllowed | ChooseCustom
Functions = Annotated[list[Function], Meta(max_length=MAX_TOOLS)]
FunctionChoice = Literal["none", "auto"] | NamedFunction


def check_tools(tools: Tools) -> None:
    """Refuse tools that are not functions, and invalid functions.

    Raises:
        InvalidRequest: a tool is invalid; the error names it.
    """
    for index, tool in enumerate(tools):
        if isinstance(tool, DeclaredCustom):
            raise invalid_tool(
                f"tools[{index}].type",
                "Tools of type `custom` are not supported, only functions.",
                "unsupported_parameter",
            )
    functions = [tool.function for tool in tools if isinstance(tool, DeclaredFunction)]
    check_functions(functions, "tools[{}].function")


def check_functions(functions: Sequence[Function], path: str) -> None:
    """Refuse functions with the same name, and invalid schemas of parameters.

    `path` is a format string for the path of a function with its index.

    Raises:
        InvalidRequest: a function is invalid; the error names it.
    """
    names: set[str] = set()
    for index, function in enumerate(functions):
        where = path.format(index)
        if function.name in names:
            raise invalid_tool(
                f"{where}.name", f"`{where}.name`: `{function.name}` is declared twice."
            )
        names.add(function.name)
        parameters = function.parameters or NO_PARAMETERS
        if parameters.get("type", "object") != "object":
            message = f"`{where}.parameters` must be the schema of an object."
            raise invalid_tool(f"{where}.parameters", message, "invalid_function_parameters")
        if function.strict and (violation := find_violation(parameters)) is not None:
            message = f"Invalid schema for function '{function.name}': {violation}."
            raise invalid_tool(f"{where}.parameters", message)


def describe(function: Function) -> dict[str, Any]:
    """The function as a tool for chat templates, which always has `parameters`."""
    fields: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        fields["description"] = function.description
    fields["parameters"] = function.parameters or NO_PARAMETERS
    if function.strict is not None:
        fields["strict"] = function.strict
    return {"type": "function", "function": fields}


def choose(
    choice: ToolChoice | None, declared: Sequence[str], *, parallel: bool, param: str
) -> ToolUse | None:
    """The declared tools that the answer may call; None if it may call none.

    Raises:
        InvalidRequest: the choice names a tool that is not declared, or no tool is declared.
    """
    match choice:
        case "none":
            return None
        case None | "auto":
            return ToolUse(list(declared), parallel=parallel) if declared else None
        case "required":
            names = list(declared)
            required = True
        case ChooseFunction(function):
            names, required, parallel = [function.name], True, False
        case ChooseAllowed(allowed):
            names = list(dict.fromkeys(tool.function.name for tool in allowed.tools))
            required = allowed.mode == "required"
        case ChooseCustom():
            message = f"`{param}`: custom tools are not supported, only functions."
            raise invalid_tool(param, message, "unsupported_parameter")
    if not declared:
        raise invalid_tool(param, f"`{param}` requires declared tools.")
    for name in names:
        if name not in declared:
            message = (
                f"`{param}`: `{excerpt(name, MAX_NAME_CHARS)}` is not one of the declared tools."
            )
            raise invalid_tool(param, message)
    return ToolUse(names, required, parallel)


def invalid_tool(param: str, message: str, code: str = "invalid_value") -> InvalidRequest:
    """The error for an invalid tool or choice."""
    return InvalidRequest(message, param=param, code=code)
