"""Control tokens are parsed but not shown, however the text is divided, held back and stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlx_lm.tokenizer_utils import TokenizerWrapper
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from worker.call_readers.deltas import ContentDelta, OutputDelta, ToolCallArguments, ToolCallStart
from worker.outputs.control_tokens import without
from worker.outputs.detokenizer import ByteDetokenizer, LeadingSpaceStripper, make_detokenizers
from worker.outputs.parsers import control_texts_of
from worker.outputs.text import Text
from worker.segmentation.hidden_spans import HiddenSpans
from worker.segmentation.segmenter import Segmenter
from worker.tool_calls.json_formats import JSON_TOOLS
from worker.tool_calls.markers import Markers
from worker.tool_calls.parser import CompiledSyntax

CONTROL = {256: "<|a|>", 257: "<|b|>", 258: "<think>", 259: "</think>", 260: "<tool_call>"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = '\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'

tokens_of_text = st.lists(st.sampled_from([*b"ab<|>", 256, 257]), max_size=25)
plain_stops = st.lists(st.text("ab<|>", min_size=1, max_size=3), max_size=3)
control_stops = st.lists(
    st.sampled_from(["<|a|>", "a<|a|>", "<|a|><|b|>", "<|b|>b", "<|a|>a<"]), max_size=2
)


def spelled(token: int) -> str:
    return CONTROL.get(token) or chr(token)


def shown(tokens: Sequence[int]) -> str:
    return "".join(chr(token) for token in tokens if token < 256)


def before_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the stop string that is completed first."""
    for end in range(1, len(text) + 1):
        starts = [end - len(each) for each in stop if text[:end].endswith(each)]
        if starts:
            return text[: min(starts)], True
    return text, False


def make_text(
    stop: Sequence[str] = (),
    *,
    segmenter: Segmenter | None = None,
    hide: bool = True,
    **options: Any,
) -> Text:
    return Text(
        ByteDetokenizer(
            lambda token: CONTROL[token].encode() if token in CONTROL else bytes([token])
        ),
        stop,
        segmenter or Segmenter(Markers()),
        control_texts=CONTROL if hide else {},
        control_stops=[s for s in stop if hide and any(t in s for t in CONTROL.values())],
        **options,
    )


def content_of(deltas: Sequence[OutputDelta]) -> str:
    return "".join(d.text for d in deltas if isinstance(d, ContentDelta) and d.kind == "content")


def reasoning_of(deltas: Sequence[OutputDelta]) -> str:
    return "".join(d.text for d in deltas if isinstance(d, ContentDelta) and d.kind == "reasoning")


def run(text: Text, tokens: Sequence[int]) -> list[OutputDelta]:
    deltas: list[OutputDelta] = []
    for token in tokens:
        deltas += text.push(token)
        if text.stopped:
            break
    return deltas + text.finish(truncated=False)


def encode(text: str) -> list[int]:
    """The tokens of a text with control tokens."""
    tokens = []
    while text:
        token = next((t for t, name in CONTROL.items() if text.startswith(name)), ord(text[0]))
        tokens.append(token)
        text = text.removeprefix(spelled(token))
    return tokens


@given(tokens_of_text, plain_stops)
def test_the_text_is_that_without_control_tokens_up_to_the_first_stop_string(
    tokens: list[int], stop: list[str]
) -> None:
    text = make_text(stop)
    expected, stopped = before_stop(shown(tokens), stop)
    assert content_of(run(text, tokens)) == expected
    assert text.stopped is stopped


@given(tokens_of_text, plain_stops, control_stops)
@example([*b"a", 256, *b"a"], [], ["a<|a|>"])
def test_a_stop_string_with_a_control_token_ends_the_answer(
    tokens: list[int], plain: list[str], control: list[str]
) -> None:
    kept: list[int] = []
    for token in tokens:
        kept.append(token)
        if before_stop("".join(map(spelled, kept)), control)[1]:
            break
    whole, ends = before_stop("".join(map(spelled, kept)), control)
    hidden = HiddenSpans()
    position = 0
    for token in kept:
        if token in CONTROL:
            hidden.add(position, CONTROL[token])
        position += len(spelled(token))
    expected, stopped = before_stop(without(whole, hidden.within(0, whole)), [*plain, *control])
    text = make_text([*plain, *control])
    assert content_of(run(text, tokens)) == expected
    assert text.stopped is (stopped or ends)
    assert (text.stopped_by in [*plain, *control]) is text.stopped


@given(tokens_of_text, plain_stops, control_stops)
def test_without_hiding_every_token_has_its_text(
    tokens: list[int], plain: list[str], control: list[str]
) -> None:
    whole = "".join(map(spelled, tokens))
    expected, _ = before_stop(whole, [*plain, *control])
    assert content_of(run(make_text([*plain, *control], hide=False), tokens)) == expected


@given(tokens_of_text, plain_stops, control_stops)
def test_the_text_of_settled_tokens_was_released(
    tokens: list[int], plain: list[str], control: list[str]
) -> None:
    text = make_text([*plain, *control])
    released = ""
    for count, token in enumerate(tokens, 1):
        released += content_of(text.push(token))
        settled = text.settled()
        assert settled <= count
        assert released.startswith(shown(tokens[:settled]))
        if text.stopped:
            break


@given(tokens_of_text)
def test_a_token_starts_where_the_text_shown_before_it_ends(tokens: list[int]) -> None:
    text = make_text()
    starts = [text.read(token)[0] for token in tokens]
    assert starts == [len(shown(tokens[:count])) for count in range(len(tokens))]


def test_a_think_block_between_control_tokens_is_reasoning() -> None:
    segmenter = Segmenter(Markers("<think>", "</think>"))
    deltas = run(make_text(segmenter=segmenter), encode("<think>so<|a|> on</think>o<|b|>k"))
    assert (reasoning_of(deltas), content_of(deltas)) == ("so on", "ok")


@pytest.mark.parametrize("stop", [[], ["no such text"]])
def test_a_call_whose_markers_are_control_tokens_is_parsed(stop: list[str]) -> None:
    syntax = CompiledSyntax(JSON_TOOLS, [TOOL], ["f"])
    text = make_text(stop, segmenter=Segmenter(Markers(), [syntax]), trim=True)
    deltas = run(text, encode(f"Well <|a|> \n<tool_call>{CALL}<|b|>"))
    assert content_of(deltas) == "Well"
    assert [d.name for d in deltas if isinstance(d, ToolCallStart)] == ["f"]
    arguments = "".join(d.text for d in deltas if isinstance(d, ToolCallArguments))
    assert json.loads(arguments) == {"x": 1}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("a<tool_call> is a<|a|> tag", "a is a tag"),
        ('<tool_call>{"name": "g"<|b|>}</tool_call>', '{"name": "g"}</tool_call>'),
    ],
)
def test_the_text_of_what_is_no_call_is_shown_without_control_tokens(
    answer: str, expected: str
) -> None:
    syntax = CompiledSyntax(JSON_TOOLS, [TOOL], ["f"])
    text = make_text(segmenter=Segmenter(Markers(), [syntax]), trim=True)
    assert content_of(run(text, encode(answer))) == expected


def test_stop_strings_are_ignored_in_the_first_min_tokens() -> None:
    text = make_text(["<|a|>"], min_tokens=2)
    assert content_of(run(text, encode("<|a|>b<|a|>c"))) == "b"
    assert text.stopped


def test_the_first_text_after_a_control_token_loses_its_space() -> None:
    inner = ByteDetokenizer(lambda token: spelled(token).encode())
    detokenizer = LeadingSpaceStripper(inner, CONTROL)
    assert [detokenizer.push(token) for token in encode("<|a|> a b")][1:] == ["", "a", " ", "b"]


def test_a_control_token_inside_a_character_is_hidden() -> None:
    text = make_text()
    data = "\u00e9".encode()
    deltas = [*text.push(data[0]), *text.push(256), *text.push(ord("x"))]
    assert content_of(deltas) == "\ufffdx"


def test_a_control_token_between_words_of_a_vocabulary_without_spaces_is_hidden() -> None:
    words = {"[UNK]": 0, "hel": 1, "##lo": 2, "world": 3}
    backend = Tokenizer(WordPiece(words, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken("[X]", special=True)])
    tokenizer = TokenizerWrapper(PreTrainedTokenizerFast(tokenizer_object=backend))
    control = control_texts_of(tokenizer)
    detokenizer = make_detokenizers(tokenizer)(False, control)
    text = Text(detokenizer, [], Segmenter(Markers()), control_texts=control)
    assert content_of(run(text, [1, 2, 4, 3])) == "hello world"
