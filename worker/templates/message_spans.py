"""Where in a conversation's text each of its messages begins.

The text is rendered with private marks around each message's content, which says exactly where
the contents are, wherever the template puts them. What is between two contents (the end of one
turn, the head of the next) is divided as the template does with short messages of the same kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from protocol.messages import ChatPrompt
from worker.prompt_errors import PromptError
from worker.templates.chat_template import ChatTemplate
from worker.templates.conversation import INSTRUCTION_ROLES
from worker.templates.traits import ChatMessage, probe

# In front of and behind a content; private use, so that no template looks at them.
BEGIN, END, CLOSE = "\U0010fff0", "\U0010fff1", "\U0010fff2"
MARK = re.compile(f"([{BEGIN}{END}])([0-9]+){CLOSE}")
MARKS = re.compile(f"[{BEGIN}{END}{CLOSE}]")
NO_MESSAGE = -1
MAX_GAPS = 512

Form = tuple[object, ...]


class Span(NamedTuple):
    """From here on the text is of this message, by its index; `NO_MESSAGE`: of none."""

    start: int
    message: int


class Content(NamedTuple):
    """Where the content of a message is."""

    start: int
    end: int
    message: int


class Gap(NamedTuple):
    """The text between two contents: the `tail` of the first, and the `head` of the second.

    A second message without content has no head.
    """

    tail: str
    head: str


class MarkedText(NamedTuple):
    """A conversation's text, and where its contents are, in the order of the text."""

    text: str
    contents: list[Content]


class MessageSpans:
    """The messages in the texts that one template makes."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._gaps: dict[Form, Gap | None] = {}
        self._heads: dict[Form, str] = {}

    def find(self, prompt: ChatPrompt) -> tuple[str, list[Span]] | None:
        """The conversation's text, and its messages in the order of the text.

        None if the template cannot be followed.
        """
        marked = self._mark(prompt)
        if marked is None or not marked.contents:
            return None
        text, contents = marked
        spans = [*self._first(prompt, text, contents[0])]
        for content, following in pairwise(contents):
            spans += self._between(prompt, text, content, following)
        spans += self._last(prompt, text, contents[-1])
        return text, spans

    def _mark(self, prompt: ChatPrompt) -> MarkedText | None:
        if any(MARKS.search(message["content"]) for message in prompt.messages):
            return None
        messages = [
            {**message, "content": mark(message["content"], index)}
            for index, message in enumerate(prompt.messages)
        ]
        try:
            rendered = self._render(msgspec.structs.replace(prompt, messages=messages))
        except PromptError:
            return None
        return None if rendered is None else unmark(rendered)

    def _render(self, prompt: ChatPrompt) -> str | None:
        text = self._template.render(prompt, tokenize=False)
        return text if isinstance(text, str) else None

    def _first(self, prompt: ChatPrompt, text: str, content: Content) -> Iterator[Span]:
        """The first message with a content, and what is before it.

        What a template writes before the first question (its own instructions, the tools) is of no
        message.
        """
        role = prompt.messages[0]["role"]
        if content.message > 0 or role != "user":
            yield Span(0, 0)
            if content.message > 0:
                yield Span(content.start, content.message)
            return
        question = {"role": role, "content": "question"}
        window = [question, {"role": "assistant", "content": "answer"}, question]
        gap = self._gap(prompt, window)
        head = gap.head if gap is not None else ""
        before = text[: content.start].removesuffix(head) if head else ""
        if before and len(before) < content.start:
            yield Span(0, NO_MESSAGE)
        yield Span(len(before) if len(before) < content.start else 0, 0)

    def _between(
        self, prompt: ChatPrompt, text: str, content: Content, following: Content
    ) -> Iterator[Span]:
        """The messages that begin between two contents: the second, and any without content."""
        between = text[content.end : following.start]
        silent = following.message - content.message - 1
        if silent <= 0:
            cut = self._cut(prompt, content.message, following.message, between)
            yield Span(content.end + cut, following.message)
            return
        first = self._cut_tail(prompt, content.message, content.message + 1, between)
        last = self._cut_head(prompt, following.message - 1, following.message, between)
        first = min(first if first is not None else 0, len(between))
        last = max(last if last is not None else len(between), first)
        yield Span(content.end + first, content.message + 1)
        yield Span(content.end + last, following.message)

    def _last(self, prompt: ChatPrompt, text: str, content: Content) -> Iterator[Span]:
        """The messages after the last content, and the head of the answer."""
        count = len(prompt.messages)
        rest = text[content.end :]
        if content.message + 1 < count:
            cut = self._cut_tail(prompt, content.message, content.message + 1, rest) or 0
            yield Span(content.end + cut, content.message + 1)
        if prompt.generation_prompt and not prompt.continue_final:
            head = self._answer_head(prompt)
            if head and rest.endswith(head):
                yield Span(len(text) - len(head), NO_MESSAGE)

    def _cut(self, prompt: ChatPrompt, first: int, second: int, between: str) -> int:
        """Where the second message begins in the text between two contents."""
        if second != first + 1:
            # The template has changed the order.
            return 0
        cut = self._cut_head(prompt, first, second, between)
        if cut is None:
            cut = self._cut_tail(prompt, first, second, between)
        return len(between) if cut is None else cut

    def _cut_head(self, prompt: ChatPrompt, first: int, second: int, between: str) -> int | None:
        """The cut by the head of the second message."""
        gap = self._gap(prompt, window_of(prompt.messages, first, second))
        if gap is None:
            return None
        content = prompt.messages[second]["content"]
        space = content[: len(content) - len(content.lstrip())]
        # Templates strip the white space of a content, or keep it.
        for head in (gap.head + space, gap.head):
            if between.endswith(head):
                return len(between) - len(head)
        # Reasoning may follow the head.
        found = between.rfind(gap.head) if gap.head.strip() else -1
        return found if found >= 0 else None

    def _cut_tail(self, prompt: ChatPrompt, first: int, second: int, between: str) -> int | None:
        """The cut by the tail of the first message."""
        gap = self._gap(prompt, window_of(prompt.messages, first, second))
        if gap is None or prompt.messages[first].get("tool_calls"):
            return None
        return len(gap.tail) if between.startswith(gap.tail) else None

    def _gap(self, prompt: ChatPrompt, window: list[ChatMessage]) -> Gap | None:
        """What the template writes between short messages like the last two of these."""
        form = (tuple(kind_of(message) for message in window), *options_of(prompt))
        if form not in self._gaps:
            if len(self._gaps) >= MAX_GAPS:
                self._gaps.clear()
            self._gaps[form] = self._probe_gap(prompt, window)
        return self._gaps[form]

    def _probe_gap(self, prompt: ChatPrompt, window: list[ChatMessage]) -> Gap | None:
        short = [mark_probe(message, place) for place, message in enumerate(window)]
        texts = []
        for messages in (short, short[:-1]):
            try:
                plain = msgspec.structs.replace(
                    prompt, messages=messages, generation_prompt=False, continue_final=False
                )
                rendered = self._render(plain)
            except PromptError:
                return None
            if rendered is None:
                return None
            texts.append(unmark(rendered))
        both, alone = texts
        last = len(short) - 1
        ends = [content.start for content in both.contents if content.message == last]
        between = both.text[after_content(both, last - 1) : ends[0] if ends else None]
        tail = common_start(between, alone.text[after_content(alone, last - 1) :])
        # What separates messages that the template has as one is the end of the first.
        head = between[len(tail) :].lstrip()
        return Gap(between.removesuffix(head), head)

    def _answer_head(self, prompt: ChatPrompt) -> str:
        """What the template writes to begin an answer, after the last message."""
        last = prompt.messages[-1]
        form = (kind_of(last), *options_of(prompt))
        if form not in self._heads:
            if len(self._heads) >= MAX_GAPS:
                self._heads.clear()
            self._heads[form] = self._probe_head(prompt)
        return self._heads[form]

    def _probe_head(self, prompt: ChatPrompt) -> str:
        count = len(prompt.messages)
        window = window_of(prompt.messages, count - 1, count)
        short = [mark_probe(message, place) for place, message in enumerate(window)]
        try:
            with_head, without = (
                self._render(
                    msgspec.structs.replace(prompt, messages=short, generation_prompt=generation)
                )
                for generation in (True, False)
            )
        except PromptError:
            return ""
        if with_head is None or without is None or not with_head.startswith(without):
            return ""
        return with_head[len(without) :]


def mark(content: str, index: int) -> str:
    """The content with marks around it, inside of its white space, which templates may strip."""
    core = content.strip()
    if not core:
        return content
    start = content.index(core)
    end = start + len(core)
    before, after = f"{BEGIN}{index}{CLOSE}", f"{END}{index}{CLOSE}"
    return f"{content[:start]}{before}{core}{after}{content[end:]}"


def unmark(marked: str) -> MarkedText:
    """The text without marks, and where they were; of a content that is repeated the first."""
    parts: list[str] = []
    length = last = 0
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for match in MARK.finditer(marked):
        parts.append(marked[last : match.start()])
        length += len(parts[-1])
        last = match.end()
        (starts if match[1] == BEGIN else ends).setdefault(int(match[2]), length)
    parts.append(marked[last:])
    contents = [Content(start, ends.get(at, start), at) for at, start in starts.items()]
    return MarkedText("".join(parts), sorted(contents))


def window_of(messages: Sequence[ChatMessage], first: int, second: int) -> list[ChatMessage]:
    """The messages that decide what is between two neighbours: the calls of results, a question."""
    start = first
    while start > 0 and messages[start]["role"] == "tool":
        start -= 1
    window = list(messages[start : second + 1])
    if messages[start]["role"] in INSTRUCTION_ROLES and start == 0:
        return window
    if messages[start]["role"] != "user":
        window.insert(0, {"role": "user", "content": "question"})
    return window


def kind_of(message: ChatMessage) -> Form:
    """What decides how a template writes a message, besides its text."""
    calls = message.get("tool_calls") or ()
    return message["role"], bool(message["content"].strip()), len(calls)


def options_of(prompt: ChatPrompt) -> Form:
    """What decides how a template writes a conversation, besides its messages."""
    return bool(prompt.tools), repr(sorted(prompt.options.items())), prompt.reasoning_effort


def mark_probe(message: ChatMessage, place: int) -> ChatMessage:
    """A short message of the same kind, marked."""
    short = {**message, **probe(message["role"], place)}
    short.pop("reasoning_content", None)
    if not message["content"].strip():
        return {**short, "content": ""}
    return {**short, "content": mark(short["content"], place)}


def after_content(marked: MarkedText, place: int) -> int:
    """The end of the last content up to this message's; 0 if there is none."""
    ends = [content.end for content in marked.contents if content.message <= place]
    return max(ends, default=0)


def common_start(first: str, second: str) -> str:
    """What two texts have in common at their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    length = next((at for at, (a, b) in pairs if a != b), min(len(first), len(second)))
    return first[:length]
