"""Makes the grammar of a whole answer: reasoning, then calls or a text of the client's format.

Reasoning is free. With the tools' `auto` beside a format the answer is calls or a text of the
format; with `required` it is calls.
"""

from __future__ import annotations

from collections.abc import Sequence

from protocol.messages import ChatPrompt, Submit, ToolUse
from worker.structured_output.answer_grammar import AnswerGrammar
from worker.tool_calls.grammar import (
    SpecialTokens,
    make_call_rules,
    make_section_rules,
    to_lark,
    until_rules,
)
from worker.tool_calls.json_formats import BARE_JSON, HARMONY
from worker.tool_calls.markers import Markers
from worker.tool_calls.syntax import CallSyntax

# What may follow a think block: some models write line breaks, and none may repeat them.
SPACE_AFTER = r"/\s{0,4}/"
ANALYSIS = "<|channel|>analysis<|message|>"
ANALYSIS_END = "<|end|>"
NEXT_MESSAGE = "<|start|>assistant"
FINAL = ("<|channel|>final", " <|constrain|>json", "<|message|>")


class AnswerGrammars:
    """Makes the grammars of one model's answers."""

    def __init__(
        self, markers: Markers, syntaxes: Sequence[CallSyntax], special_tokens: SpecialTokens
    ) -> None:
        self._markers = markers
        self._syntaxes = syntaxes
        self._special_tokens = special_tokens
        self._has_channels = HARMONY in syntaxes

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
        header = self._final_header() if begins and self._begins_message(tail) else ""
        rules = [f"start: {header} @format" + (" | calls" if calls else ""), *calls]
        return AnswerGrammar(reasoning, "\n".join(rules), submit.grammar)

    def _begins_message(self, tail: str) -> bool:
        """Whether the answer begins with a message's header."""
        return self._has_channels and not tail.endswith(FINAL[-1])

    def _may_call(self, calls: ToolUse) -> bool:
        """Whether calls that the model may make can be told from a format's text."""
        return bool(calls.names) and any(s.start or s.call_template for s in self._syntaxes)

    def _reasoning(self, tail: str) -> str:
        """The Lark text of what may come before; empty if nothing may."""
        markers = self._markers
        if self._has_channels:
            return make_analysis(self._special_tokens) if self._begins_message(tail) else ""
        if not markers.think_start or tail.endswith(markers.think_end):
            return ""
        begun = tail.endswith(markers.think_start)
        return make_think_block(markers, self._special_tokens, begun=begun)

    def _calls(self, calls: ToolUse, prompt: ChatPrompt) -> list[str]:
        """The Lark rules of calls, with arguments that keep to their schemas where they can."""
        arguments = (prompt.tools, calls.names)
        templates = (syntax.call_template for syntax in self._syntaxes)
        template = next(
            filter(None, templates), BARE_JSON.call_template if calls.required else None
        )
        special_tokens, parallel = self._special_tokens, calls.parallel
        if template is not None:
            return make_call_rules(*arguments, template, special_tokens, parallel=parallel)
        sections = [syntax for syntax in self._syntaxes if syntax.start]
        return make_section_rules(sections, *arguments, special_tokens, parallel=parallel)

    def _final_header(self) -> str:
        channel, constrained, message = (to_lark(part, self._special_tokens) for part in FINAL)
        return f"{channel} ({constrained})? {message}"


def make_think_block(markers: Markers, special_tokens: SpecialTokens, *, begun: bool) -> str:
    """The Lark text of a think block, which the prompt has `begun`, or which may be left out."""
    opening = to_lark(markers.think_start, special_tokens)
    block = f"thought {SPACE_AFTER}"
    rules = [f"start: {block}" if begun else f"start: ({opening} {block})?"]
    # After the block: markers of content, each of which may be left out.
    rules[0] += "".join(f" ({to_lark(each, special_tokens)})?" for each in markers.structural)
    return "\n".join([*rules, *until_rules("thought", markers.think_end, special_tokens)])


def make_analysis(special_tokens: SpecialTokens) -> str:
    """The Lark text of Harmony's message of reasoning, which may be left out."""
    start, following = to_lark(ANALYSIS, special_tokens), to_lark(NEXT_MESSAGE, special_tokens)
    return "\n".join([
        "start: message?",
        f"message: {start} thought {following}",
        *until_rules("thought", ANALYSIS_END, special_tokens),
    ])  # fmt: skip
