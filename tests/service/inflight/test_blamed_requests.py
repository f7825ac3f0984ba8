"""Requests that killed workers are refused for ten minutes, to their owner."""

from __future__ import annotations

import msgspec
import pytest

from protocol.messages import ChatPrompt, Submit, TextPrompt
from protocol.tokenization import Tokenize
from service.errors import InvalidRequest
from service.inflight.blamed_requests import MAX_PER_OWNER, REMEMBERED_S, BlamedRequests
from tests.service.records import make_submit


def asking(text: str) -> Submit:
    return msgspec.structs.replace(make_submit(0), prompt=TextPrompt(text))


def is_refused(blamed: BlamedRequests, owner: str, *submits: Submit | Tokenize) -> bool:
    try:
        blamed.refuse_known(owner, submits)
    except InvalidRequest as error:
        return error.code == "invalid_prompt"
    return False


def test_a_request_is_refused_to_its_owner_for_ten_minutes() -> None:
    now = 0.0
    blamed = BlamedRequests(lambda: now)
    blamed.add("a", asking("1"))
    assert is_refused(blamed, "a", asking("1"))
    assert not is_refused(blamed, "a", asking("2"))
    assert not is_refused(blamed, "b", asking("1"))
    now = REMEMBERED_S / 2
    blamed.add("a", asking("2"))
    now = REMEMBERED_S
    assert not is_refused(blamed, "a", asking("1"))
    assert is_refused(blamed, "a", asking("2"))
    now = 2 * REMEMBERED_S
    assert not is_refused(blamed, "a", asking("2"))
    assert len(blamed) == 0


def test_the_oldest_of_an_owner_are_forgotten_beyond_the_limit() -> None:
    blamed = BlamedRequests(lambda: 0.0)
    blamed.add("b", asking("0"))
    for number in range(MAX_PER_OWNER + 1):
        blamed.add("a", asking(str(number)))
        blamed.add("a", asking("again"))
    assert len(blamed) == MAX_PER_OWNER + 1
    assert is_refused(blamed, "b", asking("0"))
    assert is_refused(blamed, "a", asking("again"))
    assert not is_refused(blamed, "a", asking("0"))


@pytest.mark.parametrize(
    "changed",
    [
        {"id": 7},
        {"client": "another"},
        {"max_tokens": 3},
        {"ceiling": True},
        {"thinking_budget": 9},
        {"resume": [1, 2]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_what_a_retry_changes_makes_no_other_request_of_it(changed: dict[str, object]) -> None:
    blamed = BlamedRequests()
    blamed.add("a", asking("1"))
    retried = msgspec.structs.replace(asking("1"), **changed)
    reseeded = msgspec.structs.replace(retried.sampling, seed=retried.sampling.seed + 1)
    assert is_refused(blamed, "a", msgspec.structs.replace(retried, sampling=reseeded))


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "another"},
        {"prompt": ChatPrompt([])},
        {"prompt_logprobs": 5},
        {"stop": ["."]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_request_is_another(changed: dict[str, object]) -> None:
    blamed = BlamedRequests()
    blamed.add("a", asking("1"))
    assert not is_refused(blamed, "a", msgspec.structs.replace(asking("1"), **changed))


def test_a_request_of_several_prompts_is_refused_for_one_of_them() -> None:
    blamed = BlamedRequests()
    blamed.add("a", asking("1"))
    assert is_refused(blamed, "a", asking("0"), asking("1"))


def test_a_request_for_the_tokenizer_is_remembered_too() -> None:
    blamed = BlamedRequests()
    tokenize = Tokenize(1, "m", msgspec.Raw(msgspec.msgpack.encode(TextPrompt("1"))))
    blamed.add("a", tokenize)
    assert is_refused(blamed, "a", msgspec.structs.replace(tokenize, id=2, client="c"))
    assert not is_refused(blamed, "a", asking("1"))
