"""How one model's answers are read: its markers, its call syntaxes, its vocabulary."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlx_lm.tokenizer_utils import TokenizerWrapper

from protocol.grammars import Lark
from protocol.messages import ChatPrompt, Submit, ToolUse
from worker.outputs.detokenizer import make_detokenizers
from worker.outputs.segmenter import Markers, Segmenter
from worker.outputs.text import Text
from worker.tool_calls.bare_json import BARE, BARE_CALL
from worker.tool_calls.grammar import offer_calls, require_call
from worker.tool_calls.parser import SyntaxPatterns
from worker.tool_calls.syntax import CallSyntax

# A template that opens the think block ends the prompt with its marker and a line break.
PROMPT_TAIL_TOKENS = 16
ANGLED = re.compile(r"<.+>")


class OutputParsers:
    """Makes the `Text` of each answer of one model."""

    def __init__(self, tokenizer: TokenizerWrapper, syntaxes: Sequence[CallSyntax]) -> None:
        self._tokenizer = tokenizer
        self._syntaxes = syntaxes
        self._detokenizers = make_detokenizers(tokenizer)
        added = tokenizer.added_tokens_decoder.items()
        # llguidance (1.9) knows added tokens in angle brackets by their ids, special or not.
        self._special: dict[str, int] = {
            t.content: id for id, t in added if t.special or ANGLED.fullmatch(t.content)
        }
        self._markers = Markers(
            tokenizer.think_start or "", tokenizer.think_end or "", tokenizer.structural_markers
        )

    def create(self, submit: Submit, prompt: list[int]) -> Text:
        """An empty answer to `prompt`. Only one to a conversation has reasoning and calls."""
        match submit.prompt:
            # A grammar of the client says each character of the answer: it is not taken apart.
            case ChatPrompt(tools=tools, continue_final=continues) if (
                submit.grammar is None or submit.calls is not None
            ):
                calls = self._patterns(submit, tools)
                segmenter = Segmenter(
                    self._markers,
                    calls,
                    parallel=submit.calls is None or submit.calls.parallel,
                    reasoning=self._opens_reasoning(prompt),
                )
            case _:
                calls, continues, segmenter = [], True, Segmenter(Markers())
        return Text(
            # A grammar says each character of the answer, its first blank too.
            self._detokenizers(not (continues or is_constrained(submit))),
            submit.stop,
            segmenter,
            min_tokens=submit.sampling.min_tokens,
            trim=bool(calls),
        )

    @property
    def reasons(self) -> bool:
        """Whether the model writes think blocks."""
        return bool(self._markers.think_start)

    def required_calls(self, submit: Submit, prompt: list[int]) -> Lark | None:
        """The grammar of the calls that the answer must have, where it must have some."""
        match submit:
            case Submit(prompt=ChatPrompt(tools=tools), calls=ToolUse(names, True, parallel)):
                text = require_call(
                    tools,
                    names,
                    next((s.written for s in self._syntaxes if s.written), BARE_CALL),
                    self._special,
                    parallel=parallel,
                    think_end=self._markers.think_end if self._opens_reasoning(prompt) else "",
                )
                return Lark(text)
            case _:
                return None

    def offered_calls(self, submit: Submit) -> Lark | None:
        """The grammar of the calls that it may have, where it may and their arguments are JSON."""
        match submit:
            case Submit(
                prompt=ChatPrompt(tools=[_, *_] as tools),
                grammar=None,
                calls=ToolUse([_, *_] as names, False),
            ) if any(syntax.streamed for syntax in self._syntaxes):
                return Lark(offer_calls(tools, names))
            case _:
                return None

    def _patterns(self, submit: Submit, tools: list[dict[str, object]]) -> list[SyntaxPatterns]:
        if submit.calls is None:
            return []
        syntaxes = list(self._syntaxes)
        if submit.calls.required and not any(syntax.written for syntax in syntaxes):
            # No grammar is known of this family's own syntax: its calls are held to bare JSON.
            syntaxes.append(BARE)
        return [SyntaxPatterns(syntax, tools, submit.calls.names) for syntax in syntaxes]

    def _opens_reasoning(self, prompt: list[int]) -> bool:
        """Whether the prompt ends inside a think block that it has just opened."""
        if not self._markers.think_start:
            return False
        tail: str = self._tokenizer.decode(prompt[-PROMPT_TAIL_TOKENS:])
        return tail.rstrip().endswith(self._markers.think_start)


def is_constrained(submit: Submit) -> bool:
    """Whether a grammar says all of the answer: the client's, or that of required calls."""
    return submit.grammar is not None or (submit.calls is not None and submit.calls.required)
