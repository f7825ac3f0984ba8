"""Tools: what a request declares, and which of them the answer may or must call.

OpenAI's deprecated `functions` and `function_call` are the same by other names; their
answers keep the older shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from protocol.messages import ToolUse
from service.errors import InvalidRequest, excerpt
from service.schema.depth import MAX_DEPTH, deeper_than

MAX_TOOLS = 128

# The second half keeps Python from taking a line break after the last letter.
FunctionName = Annotated[str, Meta(max_length=64, pattern=r"^[a-zA-Z0-9_-]+$(?!\n)")]
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that may be called; `parameters` is a JSON schema of an object.

    With `strict` the arguments follow the schema exactly, or the request is refused.
    """

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """A tool of one kind."""


class DeclaredFunction(FunctionTool, frozen=True, tag="function"):
    """A function as a tool."""

    function: Function


class DeclaredCustom(FunctionTool, frozen=True, tag="custom"):
    """A tool with free-form input, which is refused."""

    custom: dict[str, Any]


class NamedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function by its name."""

    name: str


class AllowedFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A declared tool that may be called."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some of the declared tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[AllowedFunction], Meta(min_length=1, max_length=MAX_TOOLS)]


class ToolChoiceObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Which tools are called, other than in a word."""


class ChooseFunction(ToolChoiceObject, frozen=True, tag="function"):
    """This function must be called."""

    function: NamedFunction


class ChooseAllowed(ToolChoiceObject, frozen=True, tag="allowed_tools"):
    """Only these may, or must, be called."""

    allowed_tools: AllowedTools


class ChooseCustom(ToolChoiceObject, frozen=True, tag="custom"):
    """A custom tool, which is refused."""

    custom: NamedFunction


Tools = Annotated[list[DeclaredFunction | DeclaredCustom], Meta(max_length=MAX_TOOLS)]
ToolChoice = Literal["none", "auto", "required"] | ChooseFunction | ChooseAllowed | ChooseCustom
Functions = Annotated[list[Function], Meta(max_length=MAX_TOOLS)]
FunctionChoice = Literal["none", "auto"] | NamedFunction


def check_tools(tools: Tools) -> None:
    """Refuse tools that cannot be told apart, or that are no functions.

    Raises:
        InvalidRequest: it names the tool.
    """
    for index, tool in enumerate(tools):
        if isinstance(tool, DeclaredCustom):
            raise refuse(
                f"tools[{index}].type",
                "Tools of type `custom` are not supported: only functions.",
                "unsupported_parameter",
            )
    functions = [tool.function for tool in tools if isinstance(tool, DeclaredFunction)]
    check_functions(functions, "tools[{}].function")


def check_functions(functions: Sequence[Function], path: str) -> None:
    """Refuse names that occur twice, and schemas that are none.

    Raises:
        InvalidRequest: it names the function, whose `path` has a place for its index.
    """
    names: set[str] = set()
    for index, function in enumerate(functions):
        where = path.format(index)
        if function.name in names:
            raise refuse(f"{where}.name", f"`{where}.name`: `{function.name}` is declared twice.")
        names.add(function.name)
        parameters = function.parameters or NO_PARAMETERS
        if deeper_than(MAX_DEPTH, parameters):
            message = f"`{where}.parameters` is nested deeper than {MAX_DEPTH} levels."
            raise refuse(f"{where}.parameters", message)
        if parameters.get("type", "object") != "object":
            message = f"`{where}.parameters` must be the schema of an object."
            raise refuse(f"{where}.parameters", message, "invalid_function_parameters")
        if function.strict:
            check_strict(parameters, f"{where}.parameters")


def check_strict(schema: Any, path: str) -> None:
    """Refuse what OpenAI's strict mode does: objects must name, and require, all they hold.

    Raises:
        InvalidRequest: it names the schema at fault.
    """
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            check_strict(item, f"{path}[{index}]")
    if not isinstance(schema, dict):
        return
    properties = schema.get("properties")
    if isinstance(properties, dict):
        required = schema.get("required", [])
        if schema.get("additionalProperties") is not False:
            raise refuse(path, f"`{path}`: a strict schema needs `additionalProperties: false`.")
        if not isinstance(required, list) or set(properties) - set(map(str, required)):
            raise refuse(path, f"`{path}`: a strict schema must require all its properties.")
        for name, child in properties.items():
            check_strict(child, f"{path}.properties.{excerpt(name, 64)}")
    for key in ("items", "anyOf"):
        check_strict(schema.get(key), f"{path}.{key}")
    defined = schema.get("$defs", {})
    check_strict(list(defined.values()) if isinstance(defined, dict) else [], f"{path}.$defs")


def describe(function: Function) -> dict[str, Any]:
    """The function as templates expect a tool, with its parameters always."""
    told: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        told["description"] = function.description
    told["parameters"] = function.parameters or NO_PARAMETERS
    if function.strict is not None:
        told["strict"] = function.strict
    return {"type": "function", "function": told}


def choose(
    choice: ToolChoice | None, declared: Sequence[str], *, parallel: bool, param: str
) -> ToolUse | None:
    """Which of the declared tools the answer may call; None for none.

    Raises:
        InvalidRequest: the choice names a tool that is not declared, or there are none.
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
            message = f"`{param}`: custom tools are not supported: only functions."
            raise refuse(param, message, "unsupported_parameter")
    if not declared:
        raise refuse(param, f"`{param}` needs tools to choose from.")
    for name in names:
        if name not in declared:
            message = f"`{param}`: `{excerpt(name, 64)}` is none of the declared tools."
            raise refuse(param, message)
    return ToolUse(names, required, parallel)


def refuse(param: str, message: str, code: str = "invalid_value") -> InvalidRequest:
    """The error for a tool."""
    return InvalidRequest(message, param=param, code=code)
