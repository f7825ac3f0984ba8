"""Tools that run at OpenAI, of which this server has none: one struct for each type of them.

They have any fields, which are not read.
"""

from __future__ import annotations

import msgspec

HOSTED_KINDS = (
    "apply_patch",
    "code_interpreter",
    "computer",
    "computer_use",
    "computer_use_preview",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "programmatic_tool_calling",
    "shell",
    "tool_search",
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
)


class HostedTool(msgspec.Struct, frozen=True, tag_field="type"):
    """A hosted tool, or the choice of one."""

    @property
    def kind(self) -> str:
        """Its type."""
        return str(self.__struct_config__.tag)


def make_struct(kind: str) -> type[HostedTool]:
    """The struct of the hosted tools of one type."""
    name = f"Hosted{kind.title().replace('_', '')}"
    namespace = {"__doc__": f"A tool of type `{kind}`, or the choice of it: it runs at OpenAI."}
    struct = msgspec.defstruct(
        name,
        [],
        bases=(HostedTool,),
        module=__name__,
        namespace=namespace,
        tag=kind,
        tag_field="type",
        frozen=True,
    )
    assert issubclass(struct, HostedTool)
    return struct


HOSTED_TOOLS: tuple[type[HostedTool], ...] = tuple(map(make_struct, HOSTED_KINDS))
