"""Tools as Anthropic declares them, converted to functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from protocol.messages import ToolUse
from service.api.messages.blocks import CacheControl, unsupported
from service.errors import InvalidRequest
from service.schema import tools
from service.schema.tools import ChooseFunction, Function, FunctionName, NamedFunction, choose

MAX_EXAMPLES = 64
DIRECT = "direct"


class Tool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool that the client runs; `input_schema` is a JSON schema of an object.

    Its calls conform to the schema with and without `strict`. `input_examples` are in the
    prompt with the description.
    """

    name: FunctionName
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None
    input_examples: Annotated[list[dict[str, Any]], Meta(max_length=MAX_EXAMPLES)] | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = None
    defer_loading: bool | None = None
    allowed_callers: list[str] | None = None

    def to_function(self) -> Function:
        """The tool as a function."""
        return Function(self.name, self._described(), self.input_schema or None)

    def _described(self) -> str | None:
        examples = [msgspec.json.encode(each).decode() for each in self.input_examples or []]
        if not examples:
            return self.description
        lines = [self.description or "", "Examples of the input:", *examples]
        return "\n".join(lines).strip()


class ToolChoiceParam(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type"):
    """Which tools the answer may or must call."""


class ChooseAuto(ToolChoiceParam, frozen=True, tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool | None = None


class ChooseAny(ToolChoiceParam, frozen=True, tag="any"):
    """One of the tools must be called."""

    disable_parallel_tool_use: bool | None = None


class ChooseTool(ToolChoiceParam, frozen=True, tag="tool"):
    """This tool must be called."""

    name: str
    disable_parallel_tool_use: bool | None = None


class ChooseNone(ToolChoiceParam, frozen=True, tag="none"):
    """No tool may be called."""


AnyToolChoice = ChooseAuto | ChooseAny | ChooseTool | ChooseNone
Tools = Annotated[list[Tool], Meta(max_length=tools.MAX_TOOLS)]


def check_tools(declared: Sequence[Tool]) -> None:
    """Refuse what this server cannot do, and invalid functions.

    Raises:
        InvalidRequest: a tool is invalid; the error names it.
    """
    for index, tool in enumerate(declared):
        where = f"tools[{index}]"
        if tool.defer_loading:
            name = f"{where}.defer_loading"
            raise unsupported(name, f"`{name}` is not supported: the prompt has every tool.")
        if tool.allowed_callers not in (None, [], [DIRECT]):
            name = f"{where}.allowed_callers"
            raise unsupported(
                name, f'`{name}` is not supported with a value other than ["direct"].'
            )
    try:
        tools.check_functions([tool.to_function() for tool in declared], "tools[{}]")
    except InvalidRequest as error:
        raise with_own_name(error) from None


def with_own_name(error: InvalidRequest) -> InvalidRequest:
    """The error with Anthropic's name of a function's parameters."""
    message, param = (
        text.replace(".parameters", ".input_schema") for text in (error.message, error.param or "")
    )
    return InvalidRequest(message, param=param, code=error.code)


def to_tool_use(choice: AnyToolChoice | None, declared: Sequence[Tool]) -> ToolUse | None:
    """The declared tools that the answer may call; None if it may call none.

    Raises:
        InvalidRequest: the choice names a tool that is not declared, or no tool is declared.
    """
    names = [tool.name for tool in declared]
    parallel = not getattr(choice, "disable_parallel_tool_use", False)
    match choice:
        case ChooseNone():
            return None
        case ChooseAny():
            return choose("required", names, parallel=parallel, param="tool_choice")
        case ChooseTool(name):
            function = ChooseFunction(NamedFunction(name))
            return choose(function, names, parallel=parallel, param="tool_choice")
        case _:
            return choose("auto", names, parallel=parallel, param="tool_choice")
