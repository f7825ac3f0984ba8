"""The dialect of /v1/messages: one sequence, whose pieces are content blocks."""

from __future__ import annotations

from collections.abc import Mapping

from protocol.events import Origin
from protocol.messages import ChatPrompt, Submit
from service.api.messages.answer import Message, new_message_id, to_message
from service.api.messages.conversation import to_template
from service.api.messages.request import MessagesRequest, PromptRequest
from service.api.messages.writer import MessageWriter
from service.errors import ContextTooLong, InvalidRequest, MlxdError
from service.generation.answers import Answer, to_sampling
from service.generation.dialect import ResponseHeader
from service.schema.tools import describe
from service.schema.usage import Usage
from service.store.encoded_thinking import EncodedThinking

# The worker's names of parameters that are others here.
OWN_NAMES: Mapping[str, str] = {
    "reasoning_effort": "output_config.effort",
    "stop": "stop_sequences",
    "thinking_token_budget": "thinking.budget_tokens",
    "response_format": "output_config.format",
}
# The end of the worker's message if thinking cannot be turned off.
ALWAYS_THINKS = "`reasoning_effort` none."


class MessagesFormat:
    """Messages of Anthropic's API."""

    operation = "chat"
    request_type = MessagesRequest

    def __init__(self, thinking: EncodedThinking) -> None:
        self._thinking = thinking

    def to_prompt(self, request: PromptRequest) -> ChatPrompt:
        """The conversation as the worker renders it."""
        use = request.tool_use
        origins: list[Origin] = []
        return ChatPrompt(
            to_template(request.system, request.turns, self._thinking, origins),
            origins=origins,
            options=request.chat_template_kwargs or {},
            continue_final=request.is_prefilled,
            reasoning_effort=request.effort,
            ignores_effort=request.thinking_budget is not None,
            # With a `tool_choice` of `none` the prompt has no tools, so the model calls none.
            tools=[describe(tool.to_function()) for tool in request.tools or []] if use else [],
            schema_paths=[f"tools[{n}].input_schema" for n in range(len(request.tools or []))],
        )

    def to_submits(self, request: MessagesRequest, model: str) -> list[Submit]:
        return [
            Submit(
                id=0,
                model=model,
                prompt=self.to_prompt(request),
                sampling=to_sampling(request),
                max_tokens=request.token_limit,
                stop=request.stop_strings,
                grammar=request.grammar,
                grammar_param=request.grammar_param,
                calls=request.tool_use,
                thinking_budget=request.thinking_budget,
                skip_special_tokens=request.skip_special_tokens is not False,
                priority=request.priority or 0,
            )
        ]

    def new_id(self) -> str:
        return new_message_id()

    def to_response(
        self, request: MessagesRequest, header: ResponseHeader, answers: list[Answer], usage: Usage
    ) -> Message:
        return to_message(request, header, answers[0], self._thinking)

    def to_writer(self, request: MessagesRequest, header: ResponseHeader) -> MessageWriter:
        return MessageWriter(request, header, self._thinking)

    def explain(self, error: MlxdError) -> MlxdError:
        if isinstance(error, ContextTooLong):
            return in_anthropics_words(error)
        name = OWN_NAMES.get(error.param or "")
        if name is None or not isinstance(error, InvalidRequest):
            return error
        if error.message.endswith(ALWAYS_THINKS):
            message = "`thinking.type` cannot be `disabled`: this model always thinks."
            return InvalidRequest(message, param="thinking.type", code=error.code)
        message = error.message.replace(f"`{error.param}`", f"`{name}`")
        return InvalidRequest(message, param=name, code=error.code)


def in_anthropics_words(error: ContextTooLong) -> InvalidRequest:
    """The error in the words that Claude Code parses for the numbers."""
    prompt, answer, limit = error.prompt_tokens, error.answer_tokens, error.limit_tokens
    if answer > 1 and prompt < limit:
        message = (
            f"input length and `max_tokens` exceed context limit: {prompt} + {answer} > {limit}"
        )
    else:
        # A prompt leaves room for one token.
        most = limit if prompt > limit else limit - 1
        message = f"prompt is too long: {prompt} tokens > {most} maximum"
    return InvalidRequest(message, code=error.code)
