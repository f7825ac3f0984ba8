"""A request has one text parser: tokens that a constraint pushes ahead are parsed once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.events import Event, Finished, FinishReason, PromptUse
from protocol.messages import Sampling, Submit, TextPrompt
from tests.worker.outputs.switch_tool import (
    CALL,
    HEADER,
    CountingDetokenizer,
    make_text,
    tokens_of,
)
from worker.engine.engine import Token
from worker.engine.sampler import make_row
from worker.engine.token_logprobs import Score
from worker.outputs.detokenizer import ByteDetokenizer
from worker.outputs.output_processor import OutputProcessor
from worker.outputs.text import Text
from worker.outputs.tool_constraint import ToolCallConstraint
from worker.structured_output.constraint import CompiledGrammar
from worker.structured_output.vocabulary import Vocabulary

STOP_TOKEN = 4

parts = st.sampled_from(
    [
        "Hello ",
        "\n",
        "<think>",
        "</think>",
        "st",
        "stop",
        "\U0001f600",
        HEADER,
        CALL,
        CALL[:-4],
        "}",
    ]
)
texts = st.lists(parts, max_size=6).map("".join)
token_streams = st.one_of(texts.map(str.encode), st.binary(max_size=30))


def byte_text(*, reasoning: bool) -> Text:
    return make_text(ByteDetokenizer(lambda token: bytes([token])), reasoning=reasoning)


@given(token_streams, st.lists(st.integers(0, 20)), st.booleans(), st.booleans())
def test_read_returns_the_same_however_many_tokens_were_pushed_ahead(
    tokens: bytes, counts: list[int], reasoning: bool, truncated: bool
) -> None:
    unconstrained, constrained = byte_text(reasoning=reasoning), byte_text(reasoning=reasoning)
    expected = [unconstrained.read(token) for token in tokens]
    rest, results = list(tokens), []
    for count in [*counts, len(rest)]:
        pushed, rest = rest[:count], rest[count:]
        for token in pushed:
            constrained.push_ahead(token)
        results += [constrained.read(token) for token in pushed]
        # The next token is read without having been pushed ahead.
        results += [constrained.read(token) for token in rest[:1]]
        rest = rest[1:]
    assert results == expected
    assert constrained.settled() == unconstrained.settled()
    assert constrained.finish(truncated=truncated) == unconstrained.finish(truncated=truncated)
    assert constrained.reasoning_tokens == unconstrained.reasoning_tokens
    assert constrained.has_tool_calls == unconstrained.has_tool_calls
    assert constrained.stopped == unconstrained.stopped


@given(token_streams)
def test_a_text_is_settled_as_far_after_each_token_that_was_pushed_ahead(tokens: bytes) -> None:
    unconstrained, constrained = byte_text(reasoning=False), byte_text(reasoning=False)
    for token in tokens:
        deltas = constrained.push_ahead(token)
        assert (result := constrained.read(token)) == unconstrained.read(token)
        assert result[1] == deltas
        assert constrained.settled() == unconstrained.settled()
        assert constrained.stopped == unconstrained.stopped


class Run:
    """One request whose first tokens are resumed and whose other tokens are drawn."""

    def __init__(
        self, vocabulary: Vocabulary, grammar: CompiledGrammar | None, resume: Sequence[int]
    ) -> None:
        self.detokenizer = CountingDetokenizer(vocabulary)
        text = make_text(self.detokenizer)
        stop_token_ids = frozenset({STOP_TOKEN})
        self._row = make_row(
            Sampling(0),
            stop_token_ids,
            resume=resume,
            constraint=(
                None if grammar is None else ToolCallConstraint(text, grammar, stop_token_ids)
            ),
        )
        self._processor = OutputProcessor(
            Submit(1, "m", TextPrompt("x"), Sampling(0), resume=list(resume)),
            prompt=[1],
            echo="",
            row=self._row,
            text=text,
            token_bytes=lambda token: vocabulary.tokenizer.decode_bytes([token]),
            fingerprint="fp",
            received_at=0.0,
        )

    def draw(self, token: int) -> list[Event]:
        """The events of a token; like the engine, the row accepts it before it is processed."""
        self._row.accept(token)
        reason: FinishReason | None = "stop" if token == STOP_TOKEN else None
        drawn = Token(1, token, reason, None, Score(token, -1.0, []))
        return [without_use(event) for event in self._processor.process(drawn, 0.0)]


def without_use(event: Event) -> Event:
    """The event without the tokens that were computed: a resume computes some again."""
    if isinstance(event, Finished):
        return msgspec.structs.replace(event, use=PromptUse())
    return event


@pytest.fixture(params=["", "Let me see.\n", "<think>\nWhy?\n</think>\n", CALL])
def tokens(request: pytest.FixtureRequest, vocabulary: Vocabulary) -> list[int]:
    return [*tokens_of(vocabulary, f"{request.param}{CALL}\nDone"), STOP_TOKEN]


def test_a_constrained_request_parses_each_token_once(
    vocabulary: Vocabulary, grammar: CompiledGrammar, tokens: list[int]
) -> None:
    run = Run(vocabulary, grammar, resume=[])
    for token in tokens:
        run.draw(token)
    assert run.detokenizer.tokens == tokens[:-1], "a stop token is not part of the text"


def test_a_constrained_request_has_the_events_of_an_unconstrained_one(
    vocabulary: Vocabulary, grammar: CompiledGrammar, tokens: list[int]
) -> None:
    constrained, unconstrained = Run(vocabulary, grammar, []), Run(vocabulary, None, [])
    assert [constrained.draw(t) for t in tokens] == [unconstrained.draw(t) for t in tokens]


def test_a_resume_replays_each_token_once_and_continues_with_the_same_events(
    vocabulary: Vocabulary, grammar: CompiledGrammar, tokens: list[int]
) -> None:
    uninterrupted = Run(vocabulary, grammar, resume=[])
    expected = [uninterrupted.draw(token) for token in tokens]
    for count in range(1, len(tokens)):
        resumed = Run(vocabulary, grammar, tokens[:count])
        assert resumed.detokenizer.tokens == tokens[:count]
        assert [resumed.draw(token) for token in tokens[count:]] == expected[count:]
        assert resumed.detokenizer.tokens == tokens[:-1]
