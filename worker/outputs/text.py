"""The text of one sequence: parses tokens into content, reasoning and tool calls.

Stop strings are matched on text, because the same text may be tokenised in several ways.
Text that may become a stop string is held back, so no part of one is ever released. Stop
strings apply to content only, not to reasoning or the arguments of calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from worker.call_readers.deltas import ContentDelta, OutputDelta, ToolCallStart
from worker.outputs.control_tokens import ShownContent, without
from worker.outputs.detokenizer import Detokenizer
from worker.tool_calls.openings import PartialName

NO_CONTROL_TEXTS: Mapping[int, str] = {}


class AnswerParser(Protocol):
    """Splits an answer's text into content, reasoning and calls, as it arrives."""

    @property
    def in_reasoning(self) -> bool:
        """Whether the text so far ends in reasoning."""

    @property
    def has_broken_call(self) -> bool:
        """Whether the token limit ended the answer inside a call."""

    @property
    def ended(self) -> bool:
        """Whether the answer ends here because only one call was requested."""

    @property
    def in_arguments(self) -> bool:
        """Whether the text so far ends inside a call's JSON arguments."""

    @property
    def partial_name(self) -> PartialName | None:
        """The name that begins a section's first call; None outside of it."""

    @property
    def held_chars(self) -> int:
        """How many characters that may be shown are held back."""

    def is_plain(self, text: str) -> bool:
        """Whether `text`, which comes next, is known to be content without any marker."""

    def push(self, text: str, hidden_chars: int = 0) -> list[OutputDelta]:
        """Parse more text, whose last `hidden_chars` are not shown, and return its deltas."""

    def finish(self, *, truncated: bool) -> list[OutputDelta]:
        """The deltas of the text held back; `truncated`: the token limit ended the answer."""


class Text:
    """Parses the tokens of one sequence. Stop strings are ignored in the first `min_tokens`.

    With `trim`, white space next to tool calls is dropped; trailing white space is
    held back until other text follows. The tokens of `control_texts` (with their text) are
    parsed, but have no text in the deltas; `control_stops` are the stop strings with such text.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stop: Sequence[str],
        segmenter: AnswerParser,
        *,
        min_tokens: int = 0,
        trim: bool = False,
        control_texts: Mapping[int, str] = NO_CONTROL_TEXTS,
        control_stops: Sequence[str] = (),
    ) -> None:
        self._detokenizer = detokenizer
        self._control_texts = control_texts
        self._content = ShownContent(stop, control_stops)
        self._min_tokens_left = min_tokens
        # Where each token's text ends, in characters shown, and how many tokens are settled.
        self._token_ends: list[int] = []
        self.decoded_chars = 0
        self._dropped_chars = 0
        self._settled_tokens = 0
        self._segmenter = segmenter
        self._trim = trim
        # The segmenter's deltas are released unchanged.
        self._passes_through = not (stop or trim)
        self._has_hidden = False
        # White space that is held back, in parts.
        self._held_space: list[str] = []
        self._held_space_chars = 0
        self._after_call = False
        self._has_tool_calls = False
        # For each token that was pushed but not read: where its text starts, and its deltas.
        self._ahead: deque[tuple[int, list[OutputDelta]]] = deque()
        self.reasoning_tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether the text ended the sequence: by a stop string, or by the only call requested."""
        return self._content.matched or self._segmenter.ended

    @property
    def in_reasoning(self) -> bool:
        """Whether the text so far ends in reasoning."""
        return self._segmenter.in_reasoning

    @property
    def in_character(self) -> bool:
        """Whether the last token ends inside a character."""
        return self._detokenizer.in_character

    @property
    def stopped_by(self) -> str | None:
        """The stop string that ended the sequence."""
        return self._content.found

    @property
    def has_tool_calls(self) -> bool:
        """Whether the text has tool calls, and all of them are valid."""
        return self._has_tool_calls and not self._segmenter.has_broken_call

    @property
    def in_arguments(self) -> bool:
        """Whether the last token ends inside the JSON arguments of a call."""
        return self._segmenter.in_arguments

    @property
    def partial_name(self) -> PartialName | None:
        """The name that begins a section's first call; None outside of it."""
        return self._segmenter.partial_name

    def push_ahead(self, token: int) -> list[OutputDelta]:
        """The deltas of `token`, for a constraint that needs them before `read` returns them."""
        start = self.decoded_chars
        deltas = self.push(token)
        self._ahead.append((start, deltas))
        return deltas

    def read(self, token: int) -> tuple[int, list[OutputDelta]]:
        """Where the text of `token` starts, in characters, and the deltas that it releases.

        A token that was pushed ahead is not parsed again.
        """
        if self._ahead:
            return self._ahead.popleft()
        start = self.decoded_chars
        return start, self.push(token)

    def read_all(self, tokens: Sequence[int]) -> list[OutputDelta]:
        """The deltas that several tokens release; their text may not end the sequence."""
        if self._ahead or not self._control_texts.keys().isdisjoint(tokens):
            return [delta for token in tokens for delta in self.read(token)[1]]
        texts = list(map(self._detokenizer.push, tokens))
        text = "".join(texts)
        if not (self._passes_through and self._segmenter.is_plain(text)):
            pairs = zip(tokens, texts, strict=True)
            return [delta for token, text in pairs for delta in self._push_text(token, text)]
        for each in texts:
            self.decoded_chars += len(each)
            self._token_ends.append(self.decoded_chars)
        return self._segmenter.push(text)

    def push(self, token: int) -> list[OutputDelta]:
        """The deltas that `token` releases; may be empty."""
        return self._push_text(token, self._detokenizer.push(token))

    def _push_text(self, token: int, text: str) -> list[OutputDelta]:
        """The deltas that the text of `token` releases."""
        was_in_reasoning = self._segmenter.in_reasoning
        hidden_chars = self._count_hidden(token, text) if token in self._control_texts else 0
        self._has_hidden = self._has_hidden or hidden_chars > 0
        self.decoded_chars += len(text) - hidden_chars
        self._token_ends.append(self.decoded_chars)
        deltas = self._release(self._segmenter.push(text, hidden_chars))
        if self._min_tokens_left:
            self._min_tokens_left -= 1
        if was_in_reasoning or self._segmenter.in_reasoning:
            self.reasoning_tokens += 1
        return deltas

    def _count_hidden(self, token: int, text: str) -> int:
        """How many characters at the end of a control token's text are not shown."""
        control_text = self._control_texts[token]
        if not text.endswith(control_text):
            return 0
        # Some vocabularies put a space before every token.
        return len(text) if text.strip(" ") == control_text else len(control_text)

    def settled(self) -> int:
        """How many tokens, from the first, have no text that is held back or was dropped."""
        held_chars = self._segmenter.held_chars + self._held_space_chars + self._content.held_chars
        settled_end = self.decoded_chars - held_chars - self._dropped_chars
        while (
            self._settled_tokens < len(self._token_ends)
            and self._token_ends[self._settled_tokens] <= settled_end
        ):
            self._settled_tokens += 1
        return self._settled_tokens

    def finish(self, *, truncated: bool) -> list[OutputDelta]:
        """The deltas of the text held back; `truncated`: the token limit ended the sequence.

        This text may still complete a stop string.
        """
        self._min_tokens_left = 0
        rest = self._segmenter.push(self._detokenizer.flush())
        rest += self._segmenter.finish(truncated=truncated)
        deltas = self._release(rest)
        self._flush_content(deltas)
        if self._held_space and not self._after_call:
            deltas.append(ContentDelta("".join(self._held_space)))
        self._hold_space("")
        return deltas

    def _release(self, deltas: list[OutputDelta]) -> list[OutputDelta]:
        """Apply the stop strings and the trimming to the segmenter's deltas."""
        if self._passes_through and not self._has_hidden:
            return deltas
        if self._passes_through:
            return [shown for delta in deltas if (shown := without_hidden(delta)) is not None]
        released: list[OutputDelta] = []
        for delta in deltas:
            if self._content.matched:
                if isinstance(delta, ContentDelta):
                    self._dropped_chars += len(without(delta.text, delta.hidden))
                continue
            match delta:
                case ContentDelta(text, "content", hidden):
                    find_stops = not self._min_tokens_left
                    shown_text = self._content.push(text, hidden, find_stops=find_stops)
                    self._add_content(released, shown_text)
                    self._dropped_chars += self._content.dropped_chars
                case ToolCallStart():
                    if self._flush_content(released):
                        self._hold_space("")
                        self._has_tool_calls = self._after_call = True
                        released.append(delta)
                case _:
                    if (shown := without_hidden(delta)) is not None:
                        released.append(shown)
        return released

    def _flush_content(self, released: list[OutputDelta]) -> bool:
        """Release the content held back; False if it completes a stop string."""
        was_matched = self._content.matched
        self._add_content(released, self._content.flush())
        if not was_matched:
            self._dropped_chars += self._content.dropped_chars
        return not self._content.matched

    def _hold_space(self, text: str) -> None:
        """Hold back this white space only."""
        self._held_space = [text] if text else []
        self._held_space_chars = len(text)

    def _add_content(self, released: list[OutputDelta], text: str) -> None:
        if self._trim and text.isspace() and not self._content.matched:
            self._held_space.append(text)
            self._held_space_chars += len(text)
            return
        if self._trim:
            text = "".join(self._held_space) + text
            end = len(text) if self._content.matched else len(text.rstrip())
            self._hold_space(text[end:])
            text = text[:end]
        if text:
            released.append(ContentDelta(text))
            self._after_call = False


def without_hidden(delta: OutputDelta) -> OutputDelta | None:
    """The delta without its hidden text; None if nothing is left."""
    if not (isinstance(delta, ContentDelta) and delta.hidden):
        return delta
    text = without(delta.text, delta.hidden)
    return ContentDelta(text, delta.kind) if text else None
