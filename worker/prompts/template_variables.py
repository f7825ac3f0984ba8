"""The variables that a model's chat template reads and a request may set.

A request cannot set a variable that the template does not read, nor a name that
transformers itself passes to the template.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from mlx_lm.tokenizer_utils import TokenizerWrapper
from transformers import PreTrainedTokenizerBase

from worker.prompts.prompt_errors import PromptError

# Variables with which known templates switch thinking on and off.
THINKING_VARIABLES = ("enable_thinking", "thinking")
EFFORT_VARIABLE = "reasoning_effort"
NO_EFFORT = "none"
PRESENCE_CHECKS = ("defined", "undefined", "default", "d")
SET_BY_TRANSFORMERS = ("messages", "raise_exception", "strftime_now")


class GenerationBlocks(Extension):
    """Parses the `{% generation %}` blocks that transformers adds to Jinja, as plain text."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateVariables:
    """The variables of one model's template that a request may set; `names` is sorted."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        template = tokenizer.chat_template if tokenizer.has_chat_template else None
        # mlx-lm's templates in Python are not strings, and their variables are unknown.
        names = variables_of(template) if isinstance(template, str) else set()
        self.names = sorted(names - forbidden_names(tokenizer.special_tokens_map))

    @property
    def effort(self) -> str | None:
        """The variable for `reasoning_effort`: one of that name, or one that switches thinking."""
        candidates = (EFFORT_VARIABLE, *THINKING_VARIABLES)
        return next((name for name in candidates if name in self.names), None)

    def options(self, requested: dict[str, Any], effort: str | None) -> dict[str, Any]:
        """The variables to pass to the template.

        Raises:
            PromptError: the template does not read one of them.
        """
        for name in requested:
            if name not in self.names:
                raise self._unknown(name)
        if effort is None:
            return requested
        if self.effort is None:
            message = "`reasoning_effort` is not supported: this model's template does not read it."
            raise PromptError("unsupported_parameter", message, "reasoning_effort")
        value = effort if self.effort == EFFORT_VARIABLE else effort != NO_EFFORT
        return {self.effort: value, **requested}

    def _unknown(self, name: str) -> PromptError:
        names = ", ".join(f"`{name}`" for name in self.names) or "none"
        message = f"This model's chat template has no variable `{name}` to set; it has {names}."
        return PromptError("invalid_value", message, "chat_template_kwargs")


def variables_of(template: str) -> set[str]:
    """The variables that a template reads from its caller; empty if it cannot be parsed.

    A variable that the template sets is its own, unless it also tests whether it is defined.
    """
    environment = Environment(extensions=[loopcontrols, GenerationBlocks])
    try:
        tree = environment.parse(template)
    except TemplateSyntaxError:
        return set()
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    tested = {
        test.node.name
        for test in tree.find_all((nodes.Test, nodes.Filter))
        if test.name in PRESENCE_CHECKS and isinstance(test.node, nodes.Name)
    }
    read = meta.find_undeclared_variables(tree)
    return set(read) - (assigned - tested) - environment.globals.keys()


def forbidden_names(special_tokens: Iterable[str]) -> set[str]:
    """What a request must not set: transformers' own parameters, and the variables that it sets."""
    parameters = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    return {*parameters, *special_tokens, *SET_BY_TRANSFORMERS}
