"""Which variables a model's own chat template reads, and which of them a client may set.

The template decides: what it does not read cannot be honoured and is refused.
Names that mean something to the code around it are refused whatever it reads.
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

# The switches for thinking that templates are known to read.
THINKING_VARIABLES = ("enable_thinking", "thinking")
EFFORT_VARIABLE = "reasoning_effort"
NO_EFFORT = "none"
PRESENCE_CHECKS = ("defined", "undefined", "default", "d")
GIVEN_BY_TRANSFORMERS = ("messages", "raise_exception", "strftime_now")


class GenerationBlocks(Extension):
    """Reads the `{% generation %}` blocks that transformers adds to Jinja, as plain text."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateVariables:
    """The variables of one model's template that a request may set, by name."""

    def __init__(self, tokenizer: TokenizerWrapper) -> None:
        template = tokenizer.chat_template if tokenizer.has_chat_template else None
        # mlx-lm's templates written in Python are no strings, and tell nothing.
        read = variables_of(template) if isinstance(template, str) else set()
        self.names = sorted(read - forbidden_names(tokenizer.special_tokens_map))

    @property
    def effort(self) -> str | None:
        """The variable that takes a `reasoning_effort`, or switches thinking on and off."""
        known = (name for name in (EFFORT_VARIABLE, *THINKING_VARIABLES) if name in self.names)
        return next(known, None)

    def options(self, asked: dict[str, Any], effort: str | None) -> dict[str, Any]:
        """What the template is given.

        Raises:
            PromptError: it does not read one of these.
        """
        for name in asked:
            if name not in self.names:
                raise self._unknown(name)
        if effort is None:
            return asked
        if self.effort is None:
            message = "`reasoning_effort` is not supported: this model's template has none."
            raise PromptError("unsupported_parameter", message, "reasoning_effort")
        value = effort if self.effort == EFFORT_VARIABLE else effort != NO_EFFORT
        return {self.effort: value, **asked}

    def _unknown(self, name: str) -> PromptError:
        known = ", ".join(f"`{known}`" for known in self.names) or "none"
        message = f"This model's chat template takes no `{name}` from a request; it takes {known}."
        return PromptError("invalid_value", message, "chat_template_kwargs")


def variables_of(template: str) -> set[str]:
    """The names that a template takes from outside; none where it cannot be parsed.

    One that it sets is its own, unless it first asks whether it was given.
    """
    environment = Environment(extensions=[loopcontrols, GenerationBlocks])
    try:
        tree = environment.parse(template)
    except TemplateSyntaxError:
        return set()
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    asked_for = {
        test.node.name
        for test in tree.find_all((nodes.Test, nodes.Filter))
        if test.name in PRESENCE_CHECKS and isinstance(test.node, nodes.Name)
    }
    read = meta.find_undeclared_variables(tree)
    return set(read) - (own - asked_for) - environment.globals.keys()


def forbidden_names(special_tokens: Iterable[str]) -> set[str]:
    """What a request may not set: transformers' own parameters, and what it gives a template."""
    parameters = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    return {*parameters, *special_tokens, *GIVEN_BY_TRANSFORMERS}
