"""A model's chat template: renders conversations of any form, and leaves out no message."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from mlx_lm.tokenizer_utils import TokenizerWrapper

from protocol.messages import ChatPrompt
from worker.prompt_errors import PromptError
from worker.templates.call_messages import CallMessages
from worker.templates.control_texts import ControlTexts
from worker.templates.conversation import (
    DESCRIBED,
    INSTRUCTION_ROLES,
    REASONING_KEYS,
    begins_with_instructions,
    complete_messages,
    complete_tools,
    decode_calls_as_text,
    normalise_messages,
)
from worker.templates.traits import (
    EMPTY_SYSTEM,
    PROBE_TOOL,
    RENDER_ERRORS,
    ChatMessage,
    TemplateTraits,
    Tool,
    find_traits,
    probe,
)
from worker.templates.variables import DOCUMENTS, TemplateVariables
from worker.tool_calls.prompting import render_calls_as_text, render_tools_as_text
from worker.tool_calls.syntax import CallTemplate

# Messages whose text must be in the prompt. Templates may leave out parts of earlier answers.
KEPT_ROLES = (*INSTRUCTION_ROLES, "user", "tool")
# How many forms of conversations are remembered to be rendered whole, and their longest.
MAX_WHOLE_FORMS = 1024
MAX_FORM_MESSAGES = 256


class ChatTemplate:
    """The chat template of `tokenizer`, or `template` instead of it.

    `call_template` formats the calls that it cannot render.
    """

    def __init__(
        self,
        tokenizer: TokenizerWrapper,
        call_template: CallTemplate,
        variables: TemplateVariables,
        *,
        template: str | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._call_template = call_template
        self._replacement = {} if template is None else {"chat_template": template}
        if template is None and tokenizer.has_chat_template:
            template = tokenizer.chat_template
        # mlx-lm's templates in Python are not strings: what they read is unknown.
        source = template if isinstance(template, str) else ""
        self._controls = ControlTexts(tokenizer, source)
        self._calls = CallMessages(source)
        self._has_documents = DOCUMENTS in source
        self._has_developer = "developer" in source
        self._reasoning_keys = [key for key in REASONING_KEYS if key in source]
        self.variables = variables
        # Some templates of models that call tools read an empty list, but not None.
        self._no_tools: list[Tool] | None = None
        if template is not None and not self._takes([]):
            self._no_tools = []
        # Others read the description of each tool (gpt-oss), or of each property (Command R+).
        levels = (level for level in DESCRIBED if self._takes(complete_tools([PROBE_TOOL], level)))
        self._described = next(levels, DESCRIBED[-1])
        # Without tools, and with some.
        self._traits = [
            find_traits(self._render, complete_tools(tools, self._described))
            for tools in ([], [PROBE_TOOL])
        ]
        self._whole_forms: set[tuple[object, ...]] = set()

    @property
    def traits(self) -> TemplateTraits:
        """What the template does with conversations without tools."""
        return self._traits[False]

    def render(self, prompt: ChatPrompt, **settings: bool) -> Any:
        """The token ids of a conversation; with `tokenize` False its text.

        Raises:
            PromptError: the model has no template, or the template refuses the messages.
        """
        messages, tools, options = self._arguments(prompt)
        return self._render_or_refuse(messages, tools, {**settings, **options})

    def render_plain(self, prompt: ChatPrompt) -> str | None:
        """The text of a conversation; None if a control token is in what the client has written.

        Raises:
            PromptError: as `render`.
        """
        messages, tools, options = self._arguments(prompt)
        if self._controls.occur_in(messages, tools, options, self._own_variables(tools)):
            return None
        text = self._render_or_refuse(messages, tools, {"tokenize": False, **options})
        return text if isinstance(text, str) else None

    def _arguments(
        self, prompt: ChatPrompt
    ) -> tuple[list[ChatMessage], list[Tool], dict[str, Any]]:
        """The messages, the tools and the variables that the template gets."""
        if not self._tokenizer.has_chat_template:
            message = "This model has no chat template; use /v1/completions."
            raise PromptError("invalid_value", message, "messages")
        if prompt.options.get(DOCUMENTS) and not self._has_documents:
            message = "The model's chat template for these messages has no `documents` to set."
            raise PromptError("invalid_value", message, "chat_template_kwargs")
        messages, tools = self._normalise(prompt)
        options = self.variables.options(prompt)
        if prompt.continue_final:
            options["continue_final_message"] = True
        else:
            options["add_generation_prompt"] = prompt.generation_prompt
        return messages, tools, options

    def _render_or_refuse(
        self, messages: list[ChatMessage], tools: list[Tool], options: dict[str, Any]
    ) -> Any:
        try:
            return self._render(messages, tools, **options)
        except RENDER_ERRORS as error:
            message = f"The model's chat template refuses these messages: {error}"
            raise PromptError("invalid_value", message, "messages") from error

    def check_whole(self, prompt: ChatPrompt) -> None:
        """Check that the template leaves out no message: it is rendered with short texts.

        Raises:
            PromptError: it leaves out a message of the user, of a tool or of instructions.
        """
        form = form_of(prompt)
        if form in self._whole_forms:
            return
        marked = [
            {**message, **probe(message["role"], place)} if message["content"].strip() else message
            for place, message in enumerate(prompt.messages)
        ]
        try:
            text = self.render(msgspec.structs.replace(prompt, messages=marked), tokenize=False)
            text = str(text).lower()
        except PromptError:
            # The messages themselves may be taken; if they are refused, the error says why.
            return
        for place, message in enumerate(marked):
            if message["role"] in KEPT_ROLES and message["content"].strip() not in text:
                error = (
                    f"The model's chat template leaves out `messages[{place}]`, "
                    f"a message of the role `{message['role']}`."
                )
                raise PromptError("invalid_value", error, f"messages[{place}]")
        if len(self._whole_forms) < MAX_WHOLE_FORMS and len(marked) <= MAX_FORM_MESSAGES:
            self._whole_forms.add(form)

    def keeps_earlier_turns(self) -> bool:
        """Whether a conversation's text begins the text of the same conversation that goes on.

        If it does not, the prompt cache cannot reuse earlier turns.
        """
        first = [probe("user", 0)]
        later = [*first, probe("assistant", 1), probe("user", 2)]
        try:
            begin, text = (
                self._render(messages, [], tokenize=False, add_generation_prompt=False)
                for messages in (first, later)
            )
        except RENDER_ERRORS:
            return True
        return str(text).startswith(str(begin))

    def _normalise(self, prompt: ChatPrompt) -> tuple[list[ChatMessage], list[Tool]]:
        """The messages and the tools in the form that the template takes."""
        messages, tools = prompt.messages, complete_tools(prompt.tools, self._described)
        traits = self._traits[bool(tools)]
        instructed = begins_with_instructions(messages)
        if traits.tools_beside_empty_system and not (traits.tools or instructed):
            # It writes the tools into a system message alone.
            messages, instructed = [EMPTY_SYSTEM, *messages], True
        if not (traits.tools or (traits.tools_beside_system and instructed)):
            messages, tools = render_tools_as_text(messages, tools, self._call_template), []
            traits = self.traits
        if not traits.calls:
            messages = render_calls_as_text(decode_calls_as_text(messages), self._call_template)
        messages = normalise_messages(messages, traits, has_developer=self._has_developer)
        messages = complete_messages(messages, traits, self._reasoning_keys)
        return self._calls.rewrite(messages, one_call_each=not traits.several_calls), tools

    def _takes(self, tools: Sequence[Tool]) -> bool:
        try:
            self._render([probe("user", 0)], tools)
        except RENDER_ERRORS:
            return False
        return True

    def _render(
        self, messages: Sequence[ChatMessage], tools: Sequence[Tool], **options: Any
    ) -> Any:
        """What the template makes of exactly these messages; without `options` as text."""
        options = options or {"tokenize": False, "add_generation_prompt": True}
        own = self._own_variables(tools)
        return self._tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or self._no_tools,
            **{**self._replacement, **own, **options},
        )

    def _own_variables(self, tools: Sequence[Tool]) -> dict[str, str]:
        """The variables that Firefunction's template reads instead of the tools."""
        own = {}
        # Only where they are read: to write many tools with an indent takes as long as to render.
        if "functions" in self.variables.names:
            functions = [tool["function"] for tool in tools]
            own["functions"] = json.dumps(functions, ensure_ascii=False, indent=4)
        if "datetime" in self.variables.names:
            own["datetime"] = time.strftime("%B %d %Y")
        return own


def form_of(prompt: ChatPrompt) -> tuple[object, ...]:
    """What decides which of a conversation's messages a template renders, without their texts."""
    messages = tuple(
        (message["role"], bool(message["content"].strip()), len(message.get("tool_calls", ())))
        for message in prompt.messages
    )
    options = repr(sorted(prompt.options.items())), prompt.reasoning_effort
    return messages, bool(prompt.tools), options, prompt.continue_final, prompt.generation_prompt
