from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openai.types import Completion as OpenAICompletion

from service.errors import InvalidRequest
from service.http.decoding import decode_body
from service.schema.completions import Completion, CompletionChoice, CompletionRequest
from service.schema.usage import Usage


def decode(prompt: Any, **fields: Any) -> CompletionRequest:
    body = json.dumps({"model": "m", "prompt": prompt} | fields).encode()
    return decode_body(body, msgspec.json.Decoder(CompletionRequest)).request


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([0], [[0]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_a_prompt_is_a_text_texts_tokens_or_lists_of_tokens(prompt: Any, prompts: Any) -> None:
    assert decode(prompt).prompts == prompts


@pytest.mark.parametrize(
    ("prompt", "param", "code"),
    [
        (None, "prompt", "invalid_type"),
        (5, "prompt", "invalid_type"),
        ([], "prompt", "array_below_min_length"),
        ([[]], "prompt[0]", "array_below_min_length"),
        ([-1], "prompt[0]", "integer_below_min_value"),
        ([2**31], "prompt[0]", "integer_above_max_value"),
        ([1.5], "prompt[0]", "invalid_type"),
        ([[1, "a"]], "prompt[0][1]", "invalid_type"),
        ([1, "a"], "prompt", "invalid_type"),
        ([1, [1]], "prompt", "invalid_type"),
        (["a"] * 129, "prompt", "array_above_max_length"),
        ([[1]] * 129, "prompt", "array_above_max_length"),
    ],
)
def test_any_other_prompt_is_refused(prompt: Any, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(prompt)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_prompt_of_many_tokens_is_one_prompt() -> None:
    assert len(decode([7] * 10_000).prompts) == 1


def test_the_default_limit_is_sixteen_tokens() -> None:
    assert decode("a").token_limit == 16
    assert decode("a", max_tokens=3).token_limit == 3


def test_a_response_has_the_shape_that_the_openai_package_parses() -> None:
    answer = Completion(
        id="cmpl-1",
        created=1,
        model="m",
        choices=[CompletionChoice(0, "hello", "length")],
        usage=Usage(1, 2, 3),
    )
    body = msgspec.json.encode(answer)
    assert json.loads(body) == {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "text": "hello", "finish_reason": "length", "logprobs": None}],
        "system_fingerprint": "",
        "usage": {
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "total_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
    }
    OpenAICompletion.model_validate_json(body, strict=True)
