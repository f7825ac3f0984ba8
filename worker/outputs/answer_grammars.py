"""Makes the grammar of a whole answer: reasoning, then calls or a text of the client's format.

Reasoning is free. With the tools' `auto` beside a format the answer is calls or a text of the
format; with `required` it is calls.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from protocol.messages import ChatPrompt, Submit, ToolUse
from worker.call_grammars.lark_text import (
    SPACE,
    SpecialTokens,
    any_of,
    to_exact,
    to_lark,
    until_rules,
)
from worker.call_grammars.sections import make_call_rules, make_section_rules
from worker.structured_output.answer_grammar import AnswerGrammar
from worker.tool_calls.json_formats import BARE_JSON, HARMONY
from worker.tool_calls.markers import Markers
from worker.tool_calls.syntax import CallSyntax

# What may follow a think block: some models write line breaks, and none may repeat them.
SPACE_AFTER = r"/\s{0,4}/"
NEXT_MESSAGE = "<|start|>assistant"
BODY = "<|message|>"


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of an answer, as texts: those of reasoning, and the header of the last.

    `constrained` may be in that header; `to_tool` is before the name in the header of a call.
    """

    thought: str
    thought_end: str
    final: str
    constrained: str = ""
    to_tool: str = ""


HARMONY_MESSAGES = Messages(
    thought=f"<|channel|>analysis{BODY}",
    thought_end="<|end|>",
    final="<|channel|>final",
    constrained=" <|constrain|>json",
)
# Muse Spark.
ADDRESSED_MESSAGES = Messages(
    thought=f" to=self{BODY}", thought_end="<|eom|>", final=" to=user", to_tool=" to="
)


class AnswerGrammars:
    """Makes the grammars of one model's answers."""

    def __init__(
        self, markers: Markers, syntaxes: Sequence[CallSyntax], special_tokens: SpecialTokens
    ) -> None:
        self._markers = markers
        self._syntaxes = syntaxes
        self._special_tokens = special_tokens
        has_channels = any(syntax.channels for syntax in syntaxes)
        messages = HARMONY_MESSAGES if HARMONY in syntaxes else ADDRESSED_MESSAGES
        self._messages = messages if has_channels else None

    def applies(self, submit: Submit, prompt: ChatPrompt, tail: str) -> bool:
        """Whether an answer has such a grammar, to a prompt with this `tail`.

        If not, the client's own grammar is the grammar of the whole answer.
        """
        if submit.calls is not None and (submit.calls.required or self._may_call(submit.calls)):
            return True
        if prompt.continue_final:
            return False
        return self._begins_message(tail) or bool(self._reasoning(tail))

    def make(self, submit: Submit, prompt: ChatPrompt, tail: str) -> AnswerGrammar:
        """The grammar of an answer that is calls, or text of a format."""
        begins = not prompt.continue_final
        reasoning = self._reasoning(tail) if begins else ""
        if submit.calls is not None and (submit.calls.required or self._may_call(submit.calls)):
            calls = self._calls(submit.calls, prompt)
        else:
            calls = []
        if submit.calls is not None and submit.calls.required:
            return AnswerGrammar(reasoning, "\n".join(["start: calls", *calls]))
        messages = self._messages if begins and self._begins_message(tail) else None
        header = "" if messages is None else final_header(messages, self._special_tokens)
        rules = [f"start: {header} @format" + (" | calls" if calls else ""), *calls]
        return AnswerGrammar(reasoning, "\n".join(rules), submit.grammar)

    def _begins_message(self, tail: str) -> bool:
        """Whether the answer begins with a message's header."""
        return self._messages is not None and not tail.endswith(BODY)

    def _may_call(self, calls: ToolUse) -> bool:
        """Whether calls that the model may make can be told from a format's text."""
        return bool(calls.names) and any(s.start or s.call_template for s in self._syntaxes)

    def _reasoning(self, tail: str) -> str:
        """The Lark text of what may come before; empty if nothing may."""
        markers = self._markers
        if self._messages is not None:
            begins = self._begins_message(tail)
            return make_thoughts(self._messages, self._special_tokens) if begins else ""
        if not markers.think_start or tail.endswith(markers.think_end):
            return ""
        begun = tail.endswith(markers.think_start)
        return make_think_block(markers, self._special_tokens, begun=begun)

    def _calls(self, calls: ToolUse, prompt: ChatPrompt) -> list[str]:
        """The Lark rules of calls, with arguments that keep to their schemas."""
        arguments, parallel = (prompt.tools, calls.names), calls.parallel
        sections = [syntax for syntax in self._syntaxes if syntax.start]
        templated = next((s for s in self._syntaxes if s.call_template), None)
        if templated is None and not sections:
            templated = BARE_JSON
        if templated is not None:
            return make_call_rules(*arguments, templated, self._special_tokens, parallel=parallel)
        header, separator = "", SPACE
        if self._messages is not None:
            header = tool_header(self._messages, calls.names, self._special_tokens)
            following = self._messages.thought_end + NEXT_MESSAGE
            separator = to_exact(following, self._special_tokens)
        return make_section_rules(
            sections[0],
            *arguments,
            self._special_tokens,
            parallel=parallel,
            header=header,
            separator=separator,
        )


def final_header(messages: Messages, special_tokens: SpecialTokens) -> str:
    """The Lark text of the header of the message to the user."""
    final, body = (to_exact(text, special_tokens) for text in (messages.final, BODY))
    constrained = to_lark(messages.constrained, special_tokens)
    return f"{final} ({constrained})? {body}" if constrained else f"{final} {body}"


def tool_header(messages: Messages, names: Sequence[str], special_tokens: SpecialTokens) -> str:
    """The Lark text of the header of a message to one of the tools."""
    # Whole texts: after a common beginning a lexer could not tell them apart.
    recipients = any_of(json.dumps(messages.to_tool + name) for name in names)
    return f"{recipients} {to_exact(BODY, special_tokens)}"


def make_think_block(markers: Markers, special_tokens: SpecialTokens, *, begun: bool) -> str:
    """The Lark text of a think block, which the prompt has `begun`, or which may be left out."""
    opening = to_lark(markers.think_start, special_tokens)
    block = f"thought {SPACE_AFTER}"
    rules = [f"start: {block}" if begun else f"start: ({opening} {block})?"]
    # After the block: markers of content, each of which may be left out.
    rules[0] += "".join(f" ({to_lark(each, special_tokens)})?" for each in markers.structural)
    return "\n".join([*rules, *until_rules("thought", markers.think_end, special_tokens)])


def make_thoughts(messages: Messages, special_tokens: SpecialTokens) -> str:
    """The Lark text of a message of reasoning, which may be left out."""
    start, following = (to_exact(t, special_tokens) for t in (messages.thought, NEXT_MESSAGE))
    return "\n".join([
        "start: message?",
        f"message: {start} thought {following}",
        *until_rules("thought", messages.thought_end, special_tokens),
    ])  # fmt: skip
