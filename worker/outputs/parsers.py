"""Creates the parsers of one model's answers from its markers, call syntaxes and vocabulary."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Container, Iterator, Sequence

from mlx_lm.tokenizer_utils import TokenizerWrapper

from protocol.grammars import Lark
from protocol.messages import ChatPrompt, Submit, ToolUse
from worker.call_grammars.optional_calls import make_optional_call_grammar
from worker.call_grammars.relaxed_schemas import list_relaxed
from worker.outputs.answer_grammars import AnswerGrammars
from worker.outputs.detokenizer import make_detokenizers
from worker.outputs.stop_strings import compile_stop_strings
from worker.outputs.text import NO_CONTROL_TEXTS, AnswerParser, Text
from worker.segmentation.channels import REASONING_CHANNEL, REASONING_RECIPIENT, ChannelSegmenter
from worker.segmentation.segmenter import Segmenter
from worker.segmentation.thinking_ends import ThinkingEnd, find_thinking_ends
from worker.structured_output.answer_grammar import AnswerGrammar
from worker.tool_calls.json_formats import BARE_JSON
from worker.tool_calls.markers import Markers, find_markers
from worker.tool_calls.openings import all_headers
from worker.tool_calls.parser import CompiledSyntax
from worker.tool_calls.syntax import CallSyntax

# A template that opens a think block ends the prompt with its start marker and a line break.
PROMPT_TAIL_TOKENS = 16
CACHED_STOPS = 64
# So many relaxed keywords of schemas are listed.
MAX_RELAXED = 16
ANGLE_BRACKETS = re.compile(r"<.+>")


class OutputParsers:
    """What one model's outputs are parsed with."""

    def __init__(self, tokenizer: TokenizerWrapper, syntaxes: Sequence[CallSyntax]) -> None:
        self._tokenizer = tokenizer
        self.syntaxes = syntaxes
        self._create_detokenizer = make_detokenizers(tokenizer)
        added = tokenizer.added_tokens_decoder.items()
        # llguidance (1.9) matches added tokens in angle brackets by id, even if not special.
        self._special_tokens: dict[str, int] = {
            t.content: id for id, t in added if t.special or ANGLE_BRACKETS.fullmatch(t.content)
        }
        self._control_texts = control_texts_of(tokenizer)
        self._control_stops_of = functools.lru_cache(CACHED_STOPS)(self._find_control_stops)
        self._markers = find_markers(tokenizer)
        self._thinking_ends = find_thinking_ends(
            tokenizer, self._markers, has_channels=self._has_channels
        )
        self._grammars = AnswerGrammars(self._markers, syntaxes, self._special_tokens)

    def create(self, submit: Submit, prompt: list[int]) -> Text:
        """The parser of the answer to `prompt`. Only chat answers have reasoning and calls."""
        segmenter: AnswerParser
        match submit.prompt:
            case ChatPrompt(tools=tools, continue_final=continues) if self._is_parsed(
                submit, prompt
            ):
                syntaxes = self._compile_syntaxes(submit, tools)
                segmenter = self._make_segmenter(submit, syntaxes, prompt)
            # A format of the client that begins the answer: the whole answer is content.
            case _:
                syntaxes, continues, segmenter = [], True, Segmenter(Markers())
        hidden = self._control_texts if submit.skip_special_tokens else NO_CONTROL_TEXTS
        return Text(
            # A grammar defines every character of the answer, including a leading space.
            self._create_detokenizer(not (continues or is_constrained(submit)), hidden),
            submit.stop,
            segmenter,
            min_tokens=submit.sampling.min_tokens,
            trim=bool(syntaxes),
            control_texts=hidden,
            control_stops=self._control_stops_of(tuple(submit.stop)) if hidden else (),
        )

    def _make_segmenter(
        self, submit: Submit, syntaxes: list[CompiledSyntax], prompt: list[int]
    ) -> AnswerParser:
        parallel = submit.calls is None or submit.calls.parallel
        if self._has_channels:
            return ChannelSegmenter(syntaxes, parallel=parallel)
        reasoning = self._opens_reasoning(prompt)
        return Segmenter(self._markers, syntaxes, parallel=parallel, reasoning=reasoning)

    def compile(self, submit: Submit) -> None:
        """Compile the stop strings and the names of tools: `create`, on the device thread, finds
        the automatons and regular expressions in caches.

        For 512 tools this takes some 0.3 s.
        """
        if isinstance(submit.prompt, ChatPrompt):
            self._compile_syntaxes(submit, submit.prompt.tools)
        if submit.stop:
            compile_stop_strings(tuple(submit.stop))
            if control_stops := self._control_stops_of(tuple(submit.stop)):
                compile_stop_strings(control_stops)

    @property
    def control_tokens(self) -> Container[int]:
        """The tokens that are no text by themselves."""
        return self._control_texts

    def _find_control_stops(self, stop: tuple[str, ...]) -> tuple[str, ...]:
        """The stop strings that contain a control token."""
        texts = set(self._control_texts.values())
        return tuple(each for each in stop if any(text in each for text in texts))

    @property
    def _has_channels(self) -> bool:
        """Whether its answers are messages in channels."""
        return any(syntax.channels for syntax in self.syntaxes)

    def thinking_end(self, submit: Submit) -> ThinkingEnd | None:
        """What ends the reasoning of this answer; None if it has none that could be ended."""
        ends = self._thinking_ends
        if ends is None or not isinstance(submit.prompt, ChatPrompt):
            return None
        return ends.plain if submit.calls is None else ends.calling

    def ignored(self, submit: Submit) -> list[str]:
        """The parameters of the answer that this model ignores."""
        ignored = list(self._unheld_strict(submit))
        if submit.thinking_budget is not None and self.thinking_end(submit) is None:
            ignored.append("thinking_token_budget")
        return ignored

    def _unheld_strict(self, submit: Submit) -> Iterator[str]:
        """The `strict` of tools whose arguments no grammar holds.

        The model may write calls that are known only once the answer has ended, and that are no
        JSON: these are held in required calls, and beside a format.
        """
        unheld = any(s.bare and s.has_text_arguments for s in self.syntaxes)
        if submit.grammar is not None or not unheld:
            return
        match submit:
            case Submit(prompt=ChatPrompt() as prompt, calls=ToolUse(names, False)):
                for index, tool in enumerate(prompt.tools):
                    if tool["function"]["name"] in names and tool["function"].get("strict"):
                        yield f"{prompt.schema_path(index).rpartition('.')[0]}.strict"

    @property
    def has_reasoning(self) -> bool:
        """Whether the model's answers have think blocks."""
        return bool(self._markers.think_start) or self._has_channels

    @property
    def reasoning_markers(self) -> list[str]:
        """What begins and ends reasoning; empty if nothing does."""
        if self._has_channels:
            has_channel = "<|channel|>" in self._special_tokens
            return list(REASONING_CHANNEL if has_channel else REASONING_RECIPIENT)
        return [m for m in (self._markers.think_start, self._markers.think_end) if m]

    def answer_grammar(self, submit: Submit, prompt: list[int]) -> AnswerGrammar | None:
        """The grammar of an answer that is calls, or text of a format; None if it is free.

        None, too, where the format begins the answer: it is the grammar then.
        """
        if not (isinstance(submit.prompt, ChatPrompt) and self._is_parsed(submit, prompt)):
            return None
        if not is_constrained(submit):
            return None
        return self._grammars.make(submit, submit.prompt, self._decode_tail(prompt))

    def _is_parsed(self, submit: Submit, prompt: list[int]) -> bool:
        """Whether the answer may have more than content: a format alone has not."""
        if not isinstance(submit.prompt, ChatPrompt):
            return False
        if not is_constrained(submit):
            return True
        return self._grammars.applies(submit, submit.prompt, self._decode_tail(prompt))

    def optional_call_grammar(self, submit: Submit) -> Lark | None:
        """The grammar of a call's name and arguments, if the answer may have calls.

        None where a grammar applies already.
        """
        match submit:
            case Submit(
                prompt=ChatPrompt(tools=[_, *_] as tools),
                grammar=None,
                calls=ToolUse([_, *_] as names, False),
            ):
                return Lark(
                    make_optional_call_grammar(
                        tools,
                        names,
                        self._special_tokens,
                        headers=all_headers(self.syntaxes),
                        with_arguments=any(s.has_json_arguments for s in self.syntaxes),
                    )
                )
            case _:
                return None

    def list_relaxed(self, submit: Submit) -> list[str]:
        """The paths of what a grammar cannot enforce of the tools' schemas, if it enforces them."""
        match submit:
            case Submit(prompt=ChatPrompt() as prompt, calls=ToolUse(names, required)) if (
                required or any(syntax.has_json_arguments for syntax in self.syntaxes)
            ):
                return list(itertools.islice(list_relaxed(prompt, names), MAX_RELAXED))
            case _:
                return []

    def _compile_syntaxes(
        self, submit: Submit, tools: list[dict[str, object]]
    ) -> list[CompiledSyntax]:
        if submit.calls is None:
            return []
        syntaxes = list(self.syntaxes)
        if submit.calls.required and not any(s.call_template or s.start for s in syntaxes):
            # The model has no format of its own that can be required.
            syntaxes.append(BARE_JSON)
        return [CompiledSyntax(syntax, tools, submit.calls.names) for syntax in syntaxes]

    def _opens_reasoning(self, prompt: list[int]) -> bool:
        """Whether the prompt ends with the start marker of a think block."""
        start = self._markers.think_start
        return bool(start) and self._decode_tail(prompt).endswith(start)

    def _decode_tail(self, prompt: list[int]) -> str:
        """How the prompt ends, without white space."""
        tail: str = self._tokenizer.decode(prompt[-PROMPT_TAIL_TOKENS:])
        return tail.rstrip()


def is_constrained(submit: Submit) -> bool:
    """Whether a grammar defines the whole answer: the client's, or that of required calls."""
    return submit.grammar is not None or (submit.calls is not None and submit.calls.required)


def control_texts_of(tokenizer: TokenizerWrapper) -> dict[int, str]:
    """The text of each token that is no text by itself but controls the model."""
    named = set(tokenizer.all_special_ids)
    added = tokenizer.added_tokens_decoder.items()
    return {id: token.content for id, token in added if token.special or id in named}
