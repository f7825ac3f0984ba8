"""The oldest turns of a conversation that is too long are left out, and only as many as needed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.events import Rejected
from protocol.messages import ChatPrompt, ModelSource, Sampling, Submit
from protocol.tokenization import Tokenize
from tests.models import staged
from tests.models.staged import CHATML, Staged
from tests.worker.driver import make_config_loader
from worker.intake.prepared import PreparedRequest, prepare, prepare_prompt
from worker.models.model_config import ModelConfig
from worker.prompts.tokenization import convert
from worker.prompts.truncation import find_turns, truncate

CONTEXT = 400
ROOM = CONTEXT // 8
# Thinking is switched off by an empty block; tools are written.
SWITCHED = (
    "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML + "{% if add_generation_prompt and "
    "enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

Messages = list[dict[str, Any]]

words = st.integers(0, 60)
roles = st.sampled_from(["system", "user", "assistant", "user", "developer"])
conversations = st.lists(st.tuples(roles, words), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def config(llama_path: Path) -> ModelConfig:
    return make_config_loader(CONTEXT).load(ModelSource("m", str(llama_path)), download=False)


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    path = staged.make(
        Staged("x", SWITCHED, config={"max_position_embeddings": 2 * CONTEXT}),
        tmp_path_factory.mktemp("thinking") / "files",
    )
    return make_config_loader().load(ModelSource("m", str(path)), download=False)


def say(role: str, content: str, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


def ask(messages: Messages, **fields: Any) -> Submit:
    prompt = ChatPrompt(messages, truncate=True)
    return Submit(
        **{
            "id": 1,
            "model": "m",
            "prompt": prompt,
            "sampling": Sampling(0),
            "ceiling": True,
            **fields,
        }
    )


def count(messages: Messages) -> int:
    """A cheap length: that of all texts."""
    return sum(1 + len(message["content"]) for message in messages)


def turns_of(messages: Messages) -> list[Messages]:
    """The turns of messages without calls, the instructions at the beginning apart."""
    turns: list[Messages] = []
    for message in messages:
        if not turns or message["role"] == "user":
            turns.append([])
        turns[-1].append(message)
    return turns


def shortened(messages: Messages, most: int) -> tuple[Messages, int]:
    """The messages that are kept, and how often a length was measured."""
    measured = 0

    def measure(prompt: ChatPrompt) -> int:
        nonlocal measured
        measured += 1
        return count(prompt.messages)

    kept = truncate(ChatPrompt(messages, truncate=True), measure, most).messages
    return kept, measured


@given(conversations, st.integers(0, 900))
def test_as_few_of_the_oldest_turns_as_possible_are_left_out(
    spoken: Sequence[tuple[str, int]], most: int
) -> None:
    messages = [say(role, "x" * length) for role, length in spoken]
    instructions = next(
        (n for n, m in enumerate(messages) if m["role"] not in ("system", "developer")),
        len(messages),
    )
    leading, turns = messages[:instructions], turns_of(messages[instructions:])
    choices = [[*leading, *chain(*turns[n:])] for n in range(max(len(turns), 1))]
    expected = next((each for each in choices if count(each) <= most), choices[-1])
    assert shortened(messages, most)[0] == expected


@given(
    st.lists(st.integers(1, 4000), min_size=2, max_size=600),
    st.integers(1, 100_000),
)
@settings(max_examples=50)
def test_few_lengths_are_measured_however_many_turns_there_are(
    lengths: list[int], most: int
) -> None:
    messages = [say("user", "x" * length) for length in lengths]
    assert shortened(messages, most)[1] <= 3 * len(lengths).bit_length() + 3


def test_turns_of_like_lengths_are_left_out_with_four_measurements() -> None:
    messages = [say(role, "word " * 40) for _ in range(500) for role in ("user", "assistant")]
    kept, measured = shortened(messages, count(messages) // 3)
    assert 0 < len(kept) < len(messages) / 3
    assert measured <= 4


def test_a_call_and_its_output_stay_together() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        say("user", "first"),
        say("user", "second"),
        say("assistant", "", tool_calls=[call]),
        say("user", "meanwhile"),
        say("tool", "result", tool_call_id="c1"),
        say("user", "last"),
    ]
    assert find_turns(messages) == [0, 1, 5]


def prepared(config: ModelConfig, submit: Submit) -> PreparedRequest:
    result = prepare(config, submit)
    assert isinstance(result, PreparedRequest)
    return result


def long_conversation(turns: int = 20) -> Messages:
    messages = [say("system", "be brief")]
    for n in range(turns):
        messages += [say("user", f"question {n} " * 6), say("assistant", f"answer {n} " * 4)]
    return [*messages, say("user", "and now?")]


def test_the_prompt_is_that_of_the_conversation_without_the_turns(config: ModelConfig) -> None:
    messages = long_conversation()
    result = prepared(config, ask(messages))
    dropped = result.dropped_messages
    assert dropped
    assert dropped % 2 == 0
    kept = [messages[0], *messages[1 + dropped :]]
    assert result.prompt == config.prompts.build(ChatPrompt(kept))
    assert len(result.prompt) <= CONTEXT - ROOM
    longer = [messages[0], *messages[dropped - 1 :]]
    assert len(config.prompts.build(ChatPrompt(longer))) > CONTEXT - ROOM
    assert result.max_tokens == CONTEXT - len(result.prompt)


def test_a_conversation_that_fits_is_left_as_it_is(config: ModelConfig) -> None:
    messages = long_conversation(2)
    result = prepared(config, ask(messages))
    assert result.dropped_messages == 0
    assert result.prompt == config.prompts.build(ChatPrompt(messages))


def test_without_truncation_the_same_conversation_is_rejected(config: ModelConfig) -> None:
    submit = ask(long_conversation())
    whole = msgspec.structs.replace(submit, prompt=ChatPrompt(long_conversation()))
    result = prepare(config, whole)
    assert isinstance(result, Rejected)
    assert result.code == "context_length_exceeded"


@pytest.mark.parametrize("is_large", [False, True])
def test_a_last_turn_that_does_not_fit_is_rejected(config: ModelConfig, is_large: bool) -> None:
    messages = [*long_conversation(3), say("user", "word " * (CONTEXT * (100 if is_large else 1)))]
    result = prepare_prompt(
        config.prompts,
        config.parsers,
        ask(messages),
        wants_breakpoints=False,
        enforces_calls=False,
        is_large=is_large,
    )
    assert isinstance(result, Rejected)
    assert result.code == "context_length_exceeded"
    assert ("has at least" in result.message) is is_large


def test_a_last_turn_with_less_room_than_usual_is_still_answered(config: ModelConfig) -> None:
    filler = "a b c d e f g h i j "
    messages = [*long_conversation(3), say("user", filler)]
    while len(config.prompts.build(ChatPrompt([messages[0], messages[-1]]))) < CONTEXT - ROOM + 10:
        messages[-1]["content"] += filler
    result = prepared(config, ask(messages))
    assert result.dropped_messages == len(messages) - 2
    assert 1 <= result.max_tokens < ROOM


def test_a_limit_that_is_no_ceiling_has_its_whole_room(config: ModelConfig) -> None:
    result = prepared(config, ask(long_conversation(), max_tokens=300, ceiling=False))
    assert len(result.prompt) + 300 <= CONTEXT
    assert result.max_tokens == 300


@pytest.mark.parametrize("turns", [1, 20])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tools": [TOOL]},
        {"reasoning_effort": "none"},
        {"reasoning_effort": "high"},
        {"options": {"enable_thinking": True}},
        {"continue_final": True},
        {"continue_final": True, "tools": [TOOL], "reasoning_effort": "none"},
    ],
)
def test_the_count_of_tokens_is_that_of_the_prompt(
    thinking: ModelConfig, turns: int, fields: dict[str, Any]
) -> None:
    messages = long_conversation(turns)
    if "continue_final" in fields:
        messages.append(say("assistant", "It is"))
    prompt = ChatPrompt(messages, truncate=turns > 1, **fields)
    result = prepared(thinking, ask([], prompt=prompt))
    assert bool(result.dropped_messages) is (turns > 1)
    encoded = msgspec.Raw(msgspec.msgpack.encode(prompt))
    counted = convert(thinking.prompts, Tokenize(id=1, model="m", prompt=encoded)).count
    assert counted == len(result.prompt)


def test_what_changes_a_prompt_changes_its_count(thinking: ModelConfig) -> None:
    prompts = [
        ChatPrompt(long_conversation(1), **fields)
        for fields in ({}, {"tools": [TOOL]}, {"reasoning_effort": "high"})
    ]
    assert len({len(thinking.prompts.build(prompt)) for prompt in prompts}) == len(prompts)
