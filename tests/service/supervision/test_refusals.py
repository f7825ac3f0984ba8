"""The worker's refusals become errors of the service with what a dialect writes of them."""

from __future__ import annotations

import pytest

from protocol.events import TooLong
from service.errors import ContextTooLong, InternalError, InvalidRequest, encode_error
from service.supervision.refusals import error_for_code

MESSAGE = "This model's maximum context length is 8192 tokens, but the request has more."


def test_a_request_that_is_too_long_keeps_its_numbers_and_the_text_of_openai() -> None:
    code = "context_length_exceeded"
    error = error_for_code(code, MESSAGE, "messages", TooLong(30_000, 1, 8192))
    assert isinstance(error, ContextTooLong)
    assert (error.prompt_tokens, error.answer_tokens, error.limit_tokens) == (30_000, 1, 8192)
    plain = InvalidRequest(MESSAGE, param="messages", code=code)
    assert encode_error(error) == encode_error(plain)


@pytest.mark.parametrize(
    ("code", "kind"), [("invalid_value", InvalidRequest), ("no such code", InternalError)]
)
def test_other_refusals_have_the_error_of_their_code(
    code: str, kind: type[InvalidRequest | InternalError]
) -> None:
    assert type(error_for_code(code, MESSAGE, "messages")) is kind
