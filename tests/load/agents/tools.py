"""The tools that the trace offers: 24 definitions with long descriptions, about 60 kB of JSON."""

from __future__ import annotations

import random
from typing import Any

from tests.load.agents.texts import RULES

Tool = dict[str, Any]

# Each tool's name, what it does, and its parameters.
NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "read_file": ("Read lines of a file", ("path", "first_line", "last_line")),
    "write_file": ("Write a new file", ("path", "content")),
    "edit_file": ("Replace a text in a file", ("path", "old_text", "new_text", "all")),
    "move_file": ("Move or rename a file", ("path", "new_path")),
    "delete_file": ("Delete a file of this session", ("path",)),
    "list_folder": ("List the files of a folder", ("path", "depth", "pattern")),
    "find_files": ("Find files by their names", ("pattern", "path", "limit")),
    "search_text": ("Search the text of files", ("pattern", "path", "context_lines", "limit")),
    "run_command": ("Run a command in a shell", ("command", "timeout", "background")),
    "read_output": ("Read the output of a background command", ("id", "first_line")),
    "stop_command": ("Stop a background command", ("id",)),
    "run_tests": ("Run tests of the repository", ("path", "pattern", "timeout")),
    "check_types": ("Check the types of files", ("path",)),
    "format_code": ("Format files", ("path", "dry_run")),
    "show_changes": ("Show the changes since the last commit", ("path", "context_lines")),
    "make_commit": ("Commit changes", ("message", "path", "all")),
    "show_history": ("Show earlier commits", ("path", "limit")),
    "find_definition": ("Find where a name is defined", ("name", "path")),
    "find_uses": ("Find where a name is used", ("name", "path", "limit")),
    "open_page": ("Read a page of documentation", ("address", "question")),
    "search_pages": ("Search the documentation", ("question", "limit")),
    "note_plan": ("Write down the steps that are left", ("steps",)),
    "start_helper": ("Give a part of the task to a helper", ("task", "tools")),
    "ask_developer": ("Ask the developer a question", ("question", "choices")),
}
WHOLE_NUMBERS = ("first_line", "last_line", "depth", "limit", "context_lines", "timeout")
FLAGS = ("all", "background", "dry_run")
LISTS = ("steps", "tools", "choices")
RULES_OF_A_TOOL = 16
RULES_OF_A_PARAMETER = 3


def make_tools(count: int) -> list[Tool]:
    """The first `count` tools."""
    return [make_tool(name) for name in list(NAMES)[:count]]


def make_tool(name: str) -> Tool:
    """One definition in OpenAI's form."""
    purpose, parameters = NAMES[name]
    chance = random.Random(f"tool {name}")
    rules = chance.sample(RULES, k=RULES_OF_A_TOOL)
    description = f"{purpose}. " + "\n".join(f"- {name}: {rule}" for rule in rules)
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {each: parameter(name, each, chance) for each in parameters},
                "required": [parameters[0]],
            },
        },
    }


def parameter(tool: str, name: str, chance: random.Random) -> dict[str, Any]:
    """The schema of one parameter."""
    rules = " ".join(chance.sample(RULES, k=RULES_OF_A_PARAMETER))
    described = {"description": f"The {name.replace('_', ' ')} for {tool}. {rules}"}
    if name in WHOLE_NUMBERS:
        return {"type": "integer", "minimum": 0, **described}
    if name in FLAGS:
        return {"type": "boolean", "default": False, **described}
    if name in LISTS:
        return {"type": "array", "items": {"type": "string"}, **described}
    return {"type": "string", **described}
