"""The chat templates of a model's folder, by their names, in all the places where they are kept.

`chat_template.jinja` and `additional_chat_templates/*.jinja` come before `chat_template` of
tokenizer_config.json (one template, or several by name), and that before chat_template.json,
which processors write. A request with tools uses `tool_use`, one with documents `rag`, any
other `default`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from worker.folder.json_values import read_object

DEFAULT, TOOL_USE, RAG = "default", "tool_use", "rag"
TOKENIZER_CONFIG = "tokenizer_config.json"
PROCESSOR_TEMPLATE = "chat_template.json"
TEMPLATE = "chat_template.jinja"
ADDITIONAL_TEMPLATES = "additional_chat_templates"
# The names in tokenizer_config.json of mlx-lm's modules -> their package.
MODULES = {
    "chat_template_type": "mlx_lm.chat_templates",
    "tool_parser_type": "mlx_lm.tool_parsers",
}


@dataclass(frozen=True, slots=True)
class ChatTemplates:
    """The templates that requests use: `default`, and those of `named` which differ from it.

    `tool_use` is that of requests with tools, `rag` that of requests with documents.
    `settings` replace those of tokenizer_config.json; `problems` say which and why.
    """

    default: str | None = None
    named: Mapping[str, str] = field(default_factory=dict)
    settings: dict[str, Any] | None = None
    problems: tuple[str, ...] = ()

    @property
    def with_tools(self) -> str | None:
        """The template of a request with tools, from which its call syntax is known."""
        return self.named.get(TOOL_USE, self.default)


def read_chat_templates(path: Path, configured: str | None = None) -> ChatTemplates:
    """The chat templates of a model; a `configured` one replaces all of them."""
    tokenizer_config, _ = read_object(path / TOKENIZER_CONFIG)
    settings, problems = check_modules(tokenizer_config)
    if configured is not None:
        settings["chat_template_type"] = None
        return ChatTemplates(configured, {}, settings, tuple(problems))
    if is_module("chat_template_type", tokenizer_config.get("chat_template_type")):
        # mlx-lm has this template in Python, and prefers it.
        return ChatTemplates(None, {}, settings, tuple(problems))
    named = read_named_templates(path, tokenizer_config)
    default = named.get(DEFAULT)
    if default is None and named:
        name, default = next(iter(named.items()))
        problems.append(f"no chat template is named {DEFAULT}: {name} is used for all requests")
    unused = sorted(named.keys() - {DEFAULT, TOOL_USE, RAG}) if DEFAULT in named else []
    if unused:
        problems.append(f"no request uses these chat templates: {', '.join(unused)}")
    others = {name: named[name] for name in (TOOL_USE, RAG) if named.get(name, default) != default}
    return ChatTemplates(default, others, settings, tuple(problems))


def read_named_templates(path: Path, tokenizer_config: dict[str, Any]) -> dict[str, str]:
    """All templates of a folder by name."""
    files = dict(read_template_files(path))
    if DEFAULT in files:
        return files
    kept = parse_templates(tokenizer_config.get("chat_template"))
    if not kept:
        kept = parse_templates(read_object(path / PROCESSOR_TEMPLATE)[0].get("chat_template"))
    return {**kept, **files}


def read_template_files(path: Path) -> Iterator[tuple[str, str]]:
    """The names and texts of the Jinja files."""
    files = {DEFAULT: path / TEMPLATE}
    files |= {file.stem: file for file in sorted((path / ADDITIONAL_TEMPLATES).glob("*.jinja"))}
    for name, file in files.items():
        if file.is_file():
            yield name, file.read_text(encoding="utf-8")


def parse_templates(value: object) -> dict[str, str]:
    """The templates of a JSON value: one, a list of named ones, or an object by name."""
    match value:
        case str():
            return {DEFAULT: value}
        case list():
            pairs = [(e.get("name"), e.get("template")) for e in value if isinstance(e, dict)]
        case dict():
            pairs = list(value.items())
        case _:
            return {}
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}


def check_modules(tokenizer_config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings that name no module of mlx-lm, as None, and the problems of those."""
    unknown = {
        key: tokenizer_config[key]
        for key in MODULES
        if tokenizer_config.get(key) is not None and not is_module(key, tokenizer_config[key])
    }
    problems = [
        f"{TOKENIZER_CONFIG}: {key} {str(value)[:100]!r} is unknown, the chat template decides"
        for key, value in unknown.items()
    ]
    return dict.fromkeys(unknown), problems


def is_module(key: str, name: object) -> bool:
    """Whether a setting of tokenizer_config.json names a module of mlx-lm."""
    if not (isinstance(name, str) and name.isidentifier()):
        return False
    return find_spec(f"{MODULES[key]}.{name}") is not None
