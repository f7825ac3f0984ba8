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

from protocol.messages import ChatPrompt
from worker.prompt_errors import PromptError
from worker.templates.traits import RENDER_ERRORS

# Variables with which known templates switch thinking on and off.
THINKING_VARIABLES = ("enable_thinking", "thinking")
EFFORT_VARIABLE = "reasoning_effort"
# Seed-OSS: the most tokens of thinking.
BUDGET_VARIABLE = "thinking_budget"
NO_EFFORT = "none"
PROBE = [{"role": "user", "content": "Hello"}]
# A parameter of transformers, too, which passes it to the template.
DOCUMENTS = "documents"
PRESENCE_CHECKS = ("defined", "undefined", "default", "d")
SET_BY_TRANSFORMERS = ("messages", "raise_exception", "strftime_now")


class GenerationBlocks(Extension):
    """Parses the `{% generation %}` blocks that transformers adds to Jinja, as plain text."""

    tags = {"generation"}  # noqa: RUF012 (as Jinja declares it)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateVariables:
    """The variables of one model's templates that a request may set; `names` is sorted.

    `others` are its templates besides the default. `thinks` is whether the model has thinking to
    switch or to mark.
    """

    def __init__(self, tokenizer: TokenizerWrapper, others: Iterable[str] = ()) -> None:
        template = tokenizer.chat_template if tokenizer.has_chat_template else None
        # mlx-lm's templates in Python are not strings, and their variables are unknown.
        names = variables_of(template) if isinstance(template, str) else set()
        names = names.union(*map(variables_of, others))
        self.names = sorted(names - forbidden_names(tokenizer.special_tokens_map))
        self.thinks = self.effort is not None or bool(tokenizer.think_start)
        self._tokenizer = tokenizer
        self._supported_efforts: dict[str, bool] = {}

    @property
    def effort(self) -> str | None:
        """The variable for `reasoning_effort`: one of that name, or one that switches thinking."""
        candidates = (EFFORT_VARIABLE, *THINKING_VARIABLES, BUDGET_VARIABLE)
        return next((name for name in candidates if name in self.names), None)

    def options(self, prompt: ChatPrompt) -> dict[str, Any]:
        """The variables to pass to the template.

        Raises:
            PromptError: the template does not read one of them, and it is not ignored.
        """
        ignored = self.ignored(prompt)
        requested = {
            name: value
            for name, value in prompt.options.items()
            if f"chat_template_kwargs.{name}" not in ignored
        }
        for name in requested:
            if name not in self.names:
                raise self._unknown(name)
        effort = prompt.reasoning_effort
        if effort is None or "reasoning_effort" in ignored:
            return requested
        if not self._supports_effort(effort):
            message = f"This model's chat template does not support `reasoning_effort` {effort}."
            raise PromptError("unsupported_parameter", message, "reasoning_effort")
        return {**self._effort_option(effort), **requested}

    def ignored(self, prompt: ChatPrompt) -> list[str]:
        """The parameters that this model ignores.

        A model that does not think has no effort to spend, and no thinking to switch off.
        """
        names = [
            f"chat_template_kwargs.{name}"
            for name in THINKING_VARIABLES
            if not self.thinks and prompt.options.get(name) is False
        ]
        effort = prompt.reasoning_effort
        is_ignorable = prompt.ignores_effort or not self.thinks
        if effort is not None and is_ignorable and not self._supports_effort(effort):
            names.append("reasoning_effort")
        return names

    def _supports_effort(self, effort: str) -> bool:
        """Whether the template has a variable for the effort and does not refuse this value."""
        if effort not in self._supported_efforts:
            option = self._effort_option(effort)
            self._supported_efforts[effort] = bool(option) and (
                self._renders(option) or not self._renders({})
            )
        return self._supported_efforts[effort]

    def _effort_option(self, effort: str) -> dict[str, Any]:
        """The variables that set this effort; none where the template has none for it.

        No effort is thinking turned off, if the template has a word for that.
        """
        switches: dict[str, Any] = {
            name: effort != NO_EFFORT for name in THINKING_VARIABLES if name in self.names
        }
        if effort == NO_EFFORT and switches:
            return switches
        if EFFORT_VARIABLE in self.names:
            return {EFFORT_VARIABLE: effort, **switches}
        if effort == NO_EFFORT and BUDGET_VARIABLE in self.names:
            return {BUDGET_VARIABLE: 0}
        return switches

    def _renders(self, options: dict[str, Any]) -> bool:
        """Whether the template takes a short conversation with these variables."""
        try:
            self._tokenizer.apply_chat_template(
                PROBE, tokenize=False, add_generation_prompt=True, **options
            )
        except RENDER_ERRORS:
            return False
        return True

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
    return {*parameters, *special_tokens, *SET_BY_TRANSFORMERS} - {DOCUMENTS}
