"""Requests whose prompts stay encoded: nothing is lost, and their size is known."""

from __future__ import annotations

import msgspec
import pytest

from protocol.messages import (
    Cancel,
    ChatPrompt,
    Prompt,
    Sampling,
    Sibling,
    Submit,
    TextPrompt,
    TokenPrompt,
)
from protocol.tokenization import Tokenize
from worker.intake.encoded_submit import (
    MESSAGE_BYTES,
    EncodedSubmit,
    encode,
    ids_of,
    make_decoder,
    work_bytes_of,
)

MESSAGE = {"role": "user", "content": "x"}
CHAT = ChatPrompt([MESSAGE], options={"a": 1}, continue_final=True, tools=[{"type": "function"}])


def submit_of(prompt: Prompt) -> Submit:
    return Submit(1, "m", prompt, Sampling(3), stop=["s"], siblings=[Sibling(2, 4, [5])])


@pytest.mark.parametrize("prompt", [CHAT, TextPrompt("text", "suffix"), TokenPrompt([1, 2])])
def test_a_request_is_read_without_its_prompt_and_decoded_later(prompt: Prompt) -> None:
    submit = submit_of(prompt)
    received = make_decoder().decode(msgspec.msgpack.encode(submit))
    assert isinstance(received, EncodedSubmit)
    assert ids_of(received) == [1, 2]
    assert received.decode() == submit
    assert received.nbytes == len(msgspec.msgpack.encode(prompt))
    assert received.param == ("messages" if prompt is CHAT else "prompt")
    assert msgspec.msgpack.encode(received) == msgspec.msgpack.encode(submit)


def test_the_outline_of_a_conversation_lacks_only_the_messages() -> None:
    expected = msgspec.structs.replace(CHAT, messages=[])
    assert encode(submit_of(CHAT)).outline() == submit_of(expected)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [(TextPrompt("text"), TextPrompt("")), (TokenPrompt([1, 2]), TokenPrompt([]))],
)
def test_the_outline_of_a_text_is_empty(prompt: Prompt, expected: Prompt) -> None:
    assert encode(submit_of(prompt)).outline() == submit_of(expected)


def test_many_messages_are_as_much_work_as_a_long_text() -> None:
    many = encode(submit_of(ChatPrompt([MESSAGE] * 1000)))
    assert work_bytes_of(many) == 1000 * MESSAGE_BYTES > many.nbytes
    long = encode(submit_of(ChatPrompt([{"role": "user", "content": "x" * 100_000}])))
    assert work_bytes_of(long) == long.nbytes


@pytest.mark.parametrize("prompt", [ChatPrompt([MESSAGE] * 9), TextPrompt("x" * 5000), None])
def test_a_tokenization_is_as_much_work_as_its_prompt(prompt: Prompt | None) -> None:
    encoded = msgspec.Raw(msgspec.msgpack.encode(prompt))
    received = make_decoder().decode(msgspec.msgpack.encode(Tokenize(7, "m", encoded)))
    assert isinstance(received, Tokenize)
    assert ids_of(received) == [7]
    if prompt is None:
        assert work_bytes_of(received) == 1
    else:
        assert work_bytes_of(received) == work_bytes_of(encode(submit_of(prompt)))


def test_other_messages_are_decoded_as_they_are() -> None:
    assert make_decoder().decode(msgspec.msgpack.encode(Cancel([1]))) == Cancel([1])
