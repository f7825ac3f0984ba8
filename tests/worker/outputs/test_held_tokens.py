"""Text that is made of several tokens together is the text of each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.deltas import merge_deltas
from protocol.events import Event, FinishReason, TextDelta, count_drafts
from protocol.messages import Sampling, Submit, TextPrompt, ToolUse
from tests.worker.outputs.switch_tool import CALL, HEADER, NAMES, TOOLS
from worker.call_readers.deltas import ContentDelta, OutputDelta, ToolCallArguments
from worker.engine.batches.speculation.drafted_pass import DraftedCounts
from worker.engine.engine import Token
from worker.engine.sampler import Row, make_row
from worker.engine.token_logprobs import PromptScorer
from worker.outputs.detokenizer import ByteDetokenizer, LeadingSpaceStripper
from worker.outputs.output_processor import OutputProcessor
from worker.outputs.text import AnswerParser, Text
from worker.segmentation.channels import ChannelSegmenter
from worker.segmentation.segmenter import Segmenter
from worker.tool_calls.formats import BY_NAME
from worker.tool_calls.markers import Markers
from worker.tool_calls.parser import CompiledSyntax

STOP_TOKEN = 256
CONTROL_TOKEN = 257
CONTROL_TEXT = "<|end|>"
MARKERS = Markers("<think>", "</think>")

parts = st.sampled_from(
    [
        "Hello ",
        " ",
        "\n",
        "<think>",
        "</think>",
        "\U0001f600",
        HEADER,
        CALL,
        CALL[:-4],
        "<|channel|>analysis<|message|>",
        "<|channel|>final<|message|>",
        "}",
    ]
)
answers = st.one_of(
    st.lists(parts, max_size=6).map(lambda drawn: list("".join(drawn).encode())),
    st.lists(st.sampled_from([*b"ab <|", 0xF0, 0x9F, 0x98, 0x80, 0xC3, CONTROL_TOKEN])),
)
counts = st.lists(st.integers(1, 12))
drafted_counts = st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 3))
MakeParser = Callable[[], AnswerParser]


def compile_syntax(name: str) -> CompiledSyntax:
    return CompiledSyntax(BY_NAME[name], TOOLS, NAMES)


PARSERS: dict[str, MakeParser] = {
    "plain": lambda: Segmenter(Markers()),
    "reasoning": lambda: Segmenter(MARKERS),
    "opened reasoning": lambda: Segmenter(MARKERS, reasoning=True),
    "calls": lambda: Segmenter(MARKERS, [compile_syntax("json_tools")]),
    "channels": lambda: ChannelSegmenter([compile_syntax("harmony")]),
}


def bytes_of(token: int) -> bytes:
    return CONTROL_TEXT.encode() if token == CONTROL_TOKEN else bytes([token])


def make_text(kind: str) -> Text:
    controls = {CONTROL_TOKEN: CONTROL_TEXT}
    return Text(
        LeadingSpaceStripper(ByteDetokenizer(bytes_of), controls),
        (),
        PARSERS[kind](),
        trim=kind == "calls",
        control_texts=controls,
    )


def make_processor(
    text: Text, row: Row | None = None, submit: Submit | None = None
) -> OutputProcessor:
    processor = OutputProcessor(
        submit or Submit(1, "m", TextPrompt("x"), Sampling(0)),
        prompt=[1],
        echo="",
        row=row or make_row(Sampling(0)),
        text=text,
        token_bytes=bytes_of,
        fingerprint="fp",
        received_at=0.0,
    )
    processor.start(0.0)
    return processor


def divide(tokens: Sequence[int], counts: Sequence[int]) -> Iterator[Sequence[int]]:
    """The tokens in runs of these lengths, and the rest."""
    rest = tokens
    for count in counts:
        yield rest[:count]
        rest = rest[count:]
    yield rest


def content_of(events: Sequence[Event]) -> tuple[object, ...]:
    """Text by kind, and calls; tokens; how many were accepted and rejected; how it ends."""
    texts = [event for event in events if isinstance(event, TextDelta)]
    content = [event for event in merge_deltas(list(events)) if getattr(event, "text", "")]
    return (
        [
            msgspec.structs.replace(e, tokens=[], accepted=0, rejected=0)
            if isinstance(e, TextDelta)
            else e
            for e in content
        ],
        [token for event in texts for token in event.tokens],
        count_drafts(texts),
        events[-1],
    )


def joined(deltas: Sequence[OutputDelta]) -> list[object]:
    """The deltas, each text and all arguments of a call as one."""

    def kind_of(delta: OutputDelta) -> object:
        match delta:
            case ContentDelta(_, kind):
                return kind
            case ToolCallArguments(index, _):
                return index
            case _:
                return delta

    return [
        (kind, "".join(getattr(delta, "text", "") for delta in group))
        for kind, group in groupby(deltas, kind_of)
    ]


@pytest.mark.parametrize("kind", PARSERS)
@given(answers, counts, st.booleans())
def test_tokens_read_together_release_what_each_of_them_does(
    kind: str, answer: list[int], counts: list[int], truncated: bool
) -> None:
    each, together = make_text(kind), make_text(kind)
    expected = [delta for token in answer for delta in each.read(token)[1]]
    found = [delta for run in divide(answer, counts) for delta in together.read_all(run)]
    assert joined(found) == joined(expected)
    assert together.decoded_chars == each.decoded_chars
    assert together.settled() == each.settled()
    assert together.reasoning_tokens == each.reasoning_tokens
    assert together.finish(truncated=truncated) == each.finish(truncated=truncated)
    assert together.has_tool_calls == each.has_tool_calls


@pytest.mark.parametrize("kind", PARSERS)
@given(answers, counts, st.data())
def test_held_tokens_have_the_events_of_each_token_merged(
    kind: str, answer: list[int], counts: list[int], data: st.DataObject
) -> None:
    tokens = [
        Token(1, token, None, drafted=DraftedCounts(*data.draw(drafted_counts))) for token in answer
    ]
    reason: FinishReason = data.draw(st.sampled_from(["stop", "length"]))
    last = Token(1, STOP_TOKEN if reason == "stop" else ord("z"), reason)
    each, together = make_processor(make_text(kind)), make_processor(make_text(kind))
    expected, found = list[Event](), list[Event]()
    for token in [*tokens, last]:
        expected += each.process(token, 0.0)
    for run in divide(range(len(tokens)), counts):
        held = list[Token]()
        for index in run:
            if together.may_hold(tokens[index]):
                held.append(tokens[index])
            else:
                # Only the first one of an answer.
                assert index == 0
                found += together.process(tokens[index], 0.0)
        found += together.process_held(held) if held else []
    assert not together.may_hold(last)
    found += together.process(last, 0.0)
    assert content_of(found) == content_of(expected)


@pytest.mark.parametrize(
    ("row", "changes"),
    [
        (make_row(Sampling(0)), {"stop": ["x"]}),
        (make_row(Sampling(0)), {"calls": ToolUse(["switch"], False, parallel=False)}),
        (make_row(Sampling(0), logprobs=0), {}),
        (make_row(Sampling(0), scorer=PromptScorer([1, 2], 0)), {}),
    ],
)
def test_a_token_is_not_held_whose_text_may_end_the_answer_or_is_asked_for(
    row: Row, changes: dict[str, object]
) -> None:
    submit = Submit(1, "m", TextPrompt("x"), Sampling(0))
    plain = make_processor(make_text("plain"))
    special = make_processor(make_text("plain"), row, msgspec.structs.replace(submit, **changes))
    plain.process(Token(1, ord("a"), None), 0.0)
    assert plain.may_hold(Token(1, ord("a"), None))
    assert not plain.may_hold(Token(1, ord("a"), None, fault="an error that the test causes"))
    special.record.enter("decode", 0.0)
    assert not special.may_hold(Token(1, ord("a"), None))
