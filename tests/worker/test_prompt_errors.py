"""The error for a request that exceeds a limit names the limit and both lengths."""

from __future__ import annotations

import pytest

from protocol.events import TooLong
from protocol.messages import ChatPrompt, Prompt, Sampling, Submit, TokenPrompt
from worker.prompt_errors import context_length_exceeded


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "request_text", "param"),
    [
        (TokenPrompt([1]), 30, "90 in the prompt and 30 in the answer.", "prompt"),
        (ChatPrompt([]), None, "90 in the prompt and at least 1 in the answer.", "messages"),
    ],
)
def test_the_message_has_the_limit_and_what_the_request_needs(
    prompt: Prompt, max_tokens: int | None, request_text: str, param: str
) -> None:
    submit = Submit(1, "m", prompt, Sampling(0), max_tokens)
    error = context_length_exceeded(submit, 90, 100, "The limit is 100 tokens")
    assert error.message == f"The limit is 100 tokens, but the request has {request_text}"
    assert (error.code, error.param) == ("context_length_exceeded", param)
    rejected = error.to_rejected(7)
    assert rejected.message == error.message
    assert rejected.too_long == TooLong(90, max_tokens or 1, 100)


@pytest.mark.parametrize(
    ("max_tokens", "min_tokens", "answer"),
    [(30, 0, "at least 1"), (30, 5, "at least 5"), (0, 0, "0")],
)
def test_the_message_about_a_ceiling_has_the_least_that_the_answer_needs(
    max_tokens: int, min_tokens: int, answer: str
) -> None:
    sampling = Sampling(0, min_tokens=min_tokens)
    submit = Submit(1, "m", TokenPrompt([1]), sampling, max_tokens, ceiling=True)
    message = context_length_exceeded(submit, 90, 90, "The limit is 90 tokens").message
    assert message.endswith(f"90 in the prompt and {answer} in the answer.")
