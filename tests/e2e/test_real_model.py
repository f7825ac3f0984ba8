"""SmolLM2-135M-Instruct, served: its answers are mlx-lm's, after crashes and from the cache too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from tests.e2e.daemon import Daemon, running
from tests.e2e.mortal import mortal
from tests.oracle import chat_tokens, decode, greedy_tokens, text_tokens

pytestmark = pytest.mark.long

TOKENS = 24
PROMPTS = [
    "The capital of France is",
    "Once upon a time",
    "Water boils at",
    "def add(a, b):\n    return",
    "The three largest countries in the world are",
    "1, 2, 3, 4,",
    "Dear Sir or Madam,",
    "A long story. " * 30 + "In the end,",
]
CRASH_TOKENS = 80
CRASH_AFTER_PIECES = 20
MAX_LOGPROB_DIFFERENCE = 1e-3
ALTERNATIVES = 5
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 30},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "languages": {"type": "array", "items": {"enum": ["en", "fr", "de"]}, "maxItems": 3},
    },
    "required": ["name", "age", "languages"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Iterator[Daemon]:
    """A service of the model in float32."""
    with running(smollm2_path) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def smollm2_http(smollm2: Daemon) -> Iterator[httpx.Client]:
    """Requests to the service, without a limit of time: the model is slow on a busy machine."""
    with httpx.Client(base_url=smollm2.url, timeout=None, trust_env=False) as client:
        yield client


def complete(http: httpx.Client, prompt: str, **fields: Any) -> Any:
    """The completion of a prompt, greedy unless `fields` say otherwise."""
    asked = {"model": "default", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, **fields}
    answer = http.post("/v1/completions", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def chat(http: httpx.Client, text: str, **fields: Any) -> Any:
    """The message that answers a question."""
    asked = {"model": "default", "messages": [{"role": "user", "content": text}], **fields}
    answer = http.post("/v1/chat/completions", json={"temperature": 0, "max_tokens": 120, **asked})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]


@cache
def expected(path: Path, prompt: str, tokens: int = TOKENS) -> str:
    """What mlx-lm alone answers."""
    return decode(path, greedy_tokens(path, text_tokens(path, prompt), tokens))


def test_greedy_completions_are_those_of_mlx_lm_alone_and_beside_others(
    smollm2_http: httpx.Client, smollm2_path: Path
) -> None:
    right = [expected(smollm2_path, prompt) for prompt in PROMPTS]
    alone = [complete(smollm2_http, prompt) for prompt in PROMPTS[:3]]
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        together = list(pool.map(lambda prompt: complete(smollm2_http, prompt), PROMPTS))
    assert [answer["choices"][0]["text"] for answer in alone] == right[:3]
    assert [answer["choices"][0]["text"] for answer in together] == right
    assert "Paris" in right[0]


def test_a_repeated_prompt_and_the_next_turn_come_from_the_prompt_cache(
    smollm2_http: httpx.Client, smollm2_path: Path
) -> None:
    prompt = "The history of Rome begins " * 20
    first = complete(smollm2_http, prompt)
    again = complete(smollm2_http, prompt)
    usage = again["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1
    assert again["choices"][0]["text"] == first["choices"][0]["text"]
    longer = f"{prompt}{first['choices'][0]['text']} And then"
    next_turn = complete(smollm2_http, longer)
    assert next_turn["usage"]["prompt_tokens_details"]["cached_tokens"] > usage["prompt_tokens"]
    assert next_turn["choices"][0]["text"] == expected(smollm2_path, longer)


def test_a_stream_goes_on_after_a_crash_with_the_tokens_of_mlx_lm(smollm2_path: Path) -> None:
    question = [{"role": "user", "content": "Write a short poem about the sea."}]
    asked = {"model": "default", "messages": question, "max_tokens": CRASH_TOKENS}
    with (
        mortal(smollm2_path) as dying,
        httpx.Client(base_url=dying.daemon.url, timeout=None, trust_env=False) as http,
    ):
        dying.end_after(CRASH_AFTER_PIECES)
        body = {**asked, "temperature": 0, "stream": True}
        lines = http.post("/v1/chat/completions", json=body).text.splitlines()
        assert dying.restarts() == 1
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    right = greedy_tokens(smollm2_path, chat_tokens(smollm2_path, question), CRASH_TOKENS)
    assert text == decode(smollm2_path, right)


def test_a_required_tool_is_called_with_arguments_of_its_schema(smollm2_http: httpx.Client) -> None:
    message = chat(
        smollm2_http,
        "What is the weather in Paris, in celsius?",
        tools=[WEATHER],
        tool_choice="required",
    )
    # So small a model may ask for the same again.
    calls = [call["function"] for call in message["tool_calls"]]
    assert {call["name"] for call in calls} == {"get_weather"}
    for call in calls:
        jsonschema.validate(json.loads(call["arguments"]), WEATHER["function"]["parameters"])
    assert "paris" in json.loads(calls[0]["arguments"])["city"].lower()


def test_an_answer_in_a_schema_follows_it_and_the_question(smollm2_http: httpx.Client) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON, "strict": True}}
    message = chat(
        smollm2_http,
        "Anna is 31 years old and speaks English and French. Describe her in JSON.",
        response_format=form,
    )
    person = json.loads(message["content"])
    jsonschema.validate(person, PERSON)
    assert "Anna" in person["name"]


def test_log_probabilities_are_those_of_mlx_lm(
    smollm2_http: httpx.Client, smollm2_path: Path
) -> None:
    model, _ = load_model(smollm2_path)
    for prompt in PROMPTS[:2]:
        tokens = text_tokens(smollm2_path, prompt)
        steps = list(generate_step(mx.array(tokens), model, max_tokens=6))
        answer = complete(smollm2_http, prompt, max_tokens=6, logprobs=ALTERNATIVES)
        scores = answer["choices"][0]["logprobs"]
        for number, (token, logprobs) in enumerate(steps):
            best = mx.sort(logprobs)[-ALTERNATIVES:][::-1].tolist()
            ours = sorted(scores["top_logprobs"][number].values(), reverse=True)
            assert ours == pytest.approx(best, abs=MAX_LOGPROB_DIFFERENCE)
            right = float(logprobs[token].item())
            found = scores["token_logprobs"][number]
            assert found == pytest.approx(right, abs=MAX_LOGPROB_DIFFERENCE)


def test_the_quantised_model_answers_as_mlx_lm_does(smollm2_4bit_path: Path) -> None:
    with (
        running(smollm2_4bit_path) as daemon,
        httpx.Client(base_url=daemon.url, timeout=None, trust_env=False) as http,
        ThreadPoolExecutor(3) as pool,
    ):
        answers = list(pool.map(lambda text: complete(http, text, max_tokens=8), PROMPTS[:3]))
    right = [expected(smollm2_4bit_path, prompt, 8) for prompt in PROMPTS[:3]]
    assert [answer["choices"][0]["text"] for answer in answers] == right
    assert "Paris" in right[0]
