"""Every parameter does what `/v1/capabilities` states, with the `openai` package."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tokenizers import AddedToken, Tokenizer

from tests.e2e import plain_http
from tests.e2e.daemon import running
from tests.models import families
from worker.prompts.fill_in_middle import KNOWN_TRIPLES

HELLO: list[Any] = [{"role": "user", "content": "Say something long."}]
TOKENS = 24
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

# A value that changes something, for each parameter that is refused or depends on the model.
LOUD: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "chat_template_kwargs": {"enable_thinking": True},
    "modalities": ["text", "audio"],
    "moderation": {"model": "m"},
    "prediction": {"type": "content", "content": "x"},
    # Those of thinking have no effect on a model that does not think.
    "reasoning_effort": "low",
    "service_tier": "flex",
    "store": True,
    "suffix": " the end",
    "thinking_token_budget": 5,
    "verbosity": "low",
    "web_search_options": {},
}


def ask(http: httpx.Client, path: str, **fields: Any) -> httpx.Response:
    prompt = {"messages": HELLO} if path == CHAT else {"prompt": "Say"}
    return http.post(path, json={"model": "default", "max_tokens": 2, **prompt, **fields})


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_what_is_said_to_be_refused_is_and_what_is_said_to_be_honoured_is_taken(
    http: httpx.Client, path: str
) -> None:
    model = http.get("/v1/capabilities").json()["data"][0]
    assert model["loaded"]
    for name, value in LOUD.items():
        told = model["endpoints"][path].get(name)
        if told is None:
            continue
        answer = ask(http, path, **{name: value})
        assert answer.status_code == (400 if told["support"] == "refused" else 200), answer.text
        assert (name in answer.headers.get("x-mlxd-ignored", "")) == (told["support"] == "label")
        if answer.status_code == 400:
            assert answer.json()["error"]["param"] == name
        for neutral in told.get("neutral", []):
            assert ask(http, path, **{name: neutral}).status_code == 200


def test_log_probabilities_cover_the_text_and_are_the_same_in_a_stream(
    client: openai.OpenAI,
) -> None:
    asked: Any = {
        "model": "default",
        "messages": HELLO,
        "max_tokens": TOKENS,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
    }
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert len(choice.logprobs.content) == TOKENS
    for token in choice.logprobs.content:
        assert token.bytes is not None
        assert len(token.top_logprobs) == 20
        # Greedy: the drawn token is the likeliest.
        assert token.logprob == token.top_logprobs[0].logprob <= 0
    written = b"".join(bytes(token.bytes or []) for token in choice.logprobs.content)
    text = choice.message.content or ""
    assert written.decode(errors="replace").removeprefix(" ") == text
    streamed = [
        token
        for chunk in client.chat.completions.create(**asked, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert [token.model_dump() for token in streamed] == [
        token.model_dump() for token in choice.logprobs.content
    ]


def test_an_echoed_prompt_is_scored_as_evaluation_harnesses_ask(client: openai.OpenAI) -> None:
    prompts = [[5, 6, 7, 8, 9], [10, 11, 12]]
    for max_tokens in (0, 1):
        answer = client.completions.create(
            model="default", prompt=prompts, max_tokens=max_tokens, echo=True, logprobs=1,
            temperature=0,
        )  # fmt: skip
        for prompt, choice in zip(prompts, answer.choices, strict=True):
            told = choice.logprobs
            assert told is not None
            assert told.tokens is not None
            scores: list[Any] = told.token_logprobs or []
            assert told.top_logprobs is not None
            assert len(told.tokens) == len(scores) == len(prompt) + max_tokens
            assert scores[0] is None
            assert all(value <= 0 for value in scores[1:])
            assert told.text_offset is not None
            assert told.text_offset[0] == 0
            if max_tokens:
                assert max(told.top_logprobs[-1].values()) == scores[-1]


def test_several_answers_differ_are_the_same_in_a_stream_and_count_their_prompt_once(
    client: openai.OpenAI,
) -> None:
    asked: Any = {"model": "default", "messages": HELLO, "max_tokens": TOKENS, "seed": 7}
    one = client.chat.completions.create(**asked)
    three = client.chat.completions.create(**asked, n=3)
    texts = [choice.message.content for choice in three.choices]
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert texts[0] == one.choices[0].message.content
    assert len(set(texts)) == 3
    assert one.usage is not None
    assert three.usage is not None
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 3 * TOKENS
    streamed = ["", "", ""]
    for chunk in client.chat.completions.create(**asked, n=3, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts


def test_the_best_of_several_is_given(client: openai.OpenAI) -> None:
    asked: Any = {"model": "default", "prompt": "Say", "max_tokens": TOKENS, "seed": 3}
    every = client.completions.create(**asked, n=4, logprobs=0)
    means = {}
    for choice in every.choices:
        assert choice.logprobs is not None
        values = choice.logprobs.token_logprobs or []
        means[choice.text] = sum(values) / len(values)
    best = client.completions.create(**asked, best_of=4)
    assert best.choices[0].text == max(means, key=lambda text: means[text])
    assert best.choices[0].logprobs is None
    assert best.usage is not None
    assert best.usage.completion_tokens == 4 * TOKENS


def test_penalties_and_biases_change_a_greedy_answer_and_its_neighbours_do_not(
    client: openai.OpenAI,
) -> None:
    asked: Any = {"model": "default", "messages": HELLO, "max_tokens": TOKENS, "temperature": 0}
    plain = client.chat.completions.create(**asked).choices[0].message.content
    changed = [
        client.chat.completions.create(**asked, **fields).choices[0].message.content
        for fields in ({"logit_bias": {"300": 100}}, {"frequency_penalty": 2}, {})
    ]
    assert changed[0] != plain
    assert changed[2] == plain


def test_an_answer_names_its_system_its_tier_and_its_times(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.with_raw_response.create(
            model="default", messages=HELLO, max_tokens=2, service_tier="auto"
        )
        for _ in range(2)
    ]
    for raw in answers:
        assert int(raw.headers["openai-processing-ms"]) >= 0
        body = json.loads(raw.text)
        assert body["service_tier"] == "default"
        assert body["usage"]["prompt_tokens_details"]["cached_tokens"] >= 0
        assert {"queue_ms", "prefill_ms", "decode_ms", "parted"} <= set(body["usage"]["mlxd"])
    prints = {answer.parse().system_fingerprint for answer in answers}
    assert len(prints) == 1
    assert prints.pop().startswith("fp_")  # type: ignore[union-attr]


def test_a_streams_events_have_one_id_one_time_and_one_system(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="default",
            messages=HELLO,
            max_tokens=TOKENS,
            n=2,
            stream=True,
            extra_body={"ignore_eos": True},
        )
    )
    assert len({(c.id, c.created, c.model, c.system_fingerprint) for c in chunks}) == 1
    ends = [choice.finish_reason for c in chunks for choice in c.choices if choice.finish_reason]
    assert ends == ["length"] * 2
    assert all(chunk.usage is None for chunk in chunks)


def with_infill() -> Tokenizer:
    tokenizer = families.LLAMA.tokenizer()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in KNOWN_TRIPLES[0]])
    return tokenizer


def test_a_model_with_tokens_for_it_fills_in_before_a_suffix(tmp_path: Path) -> None:
    family = dataclasses.replace(families.LLAMA, tokenizer=with_infill)
    path = families.make(family, tmp_path / "tiny-infill")
    with running(path) as daemon, plain_http.client(daemon.url) as http:
        model = http.get("/v1/capabilities").json()["data"][0]
        assert model["endpoints"][TEXT]["suffix"] == {"support": "honoured"}
        plain, filled = (ask(http, TEXT, temperature=0, **f).json() for f in ({}, {"suffix": "x"}))
        assert filled["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"]


def test_a_streams_events_have_the_usage_so_far_if_asked(client: openai.OpenAI) -> None:
    asked: Any = {"model": "default", "messages": HELLO, "max_tokens": TOKENS, "n": 2}
    asked["extra_body"] = {"ignore_eos": True}
    for also in (False, True):
        options: Any = {"continuous_usage_stats": True, "include_usage": also}
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options=options))
        usages = [chunk.usage for chunk in chunks]
        counts = [usage.completion_tokens for usage in usages if usage is not None]
        assert len(counts) == len(chunks)
        assert counts == sorted(counts)
        assert (counts[0], counts[-1]) == (0, 2 * TOKENS)
        assert [chunk.choices == [] for chunk in chunks] == [False] * (len(chunks) - 1) + [also]
        assert len({usage.prompt_tokens for usage in usages if usage is not None}) == 1


def test_a_schema_in_any_of_the_places_that_clients_use_is_enforced(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    for fields in (
        {"structured_outputs": {"json": schema}},
        {"structured_outputs": {"json": json.dumps(schema)}},
        {"response_format": {"type": "json_object", "schema": schema}},
    ):
        for path in (CHAT, TEXT):
            choice = ask(http, path, max_tokens=60, **fields).json()["choices"][0]
            text = choice["message"]["content"] if path == CHAT else choice["text"]
            assert json.loads(text)["n"] in (1, 2)


def test_values_that_change_nothing_give_the_same_answer(http: httpx.Client) -> None:
    asked = {"temperature": 0, "max_tokens": TOKENS}
    plain = text_of(ask(http, CHAT, **asked))
    neutral: list[dict[str, Any]] = [
        {"stop": []},
        {"top_k": -1},
        {"tools": []},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_effort": "high"},
        {"unknown": None, "also_unknown": {"a": None}},
        {"temperature": 2, "top_p": 0},
        {"stop": [f"never {n}" for n in range(64)]},
    ]
    for fields in neutral:
        assert text_of(ask(http, CHAT, **{**asked, **fields})) == plain


def test_unknown_keys_of_messages_are_named_in_a_header(http: httpx.Client) -> None:
    asked = [{"role": "user", "content": "Hi", "zz": 1, "odd key!": 2, "id": "m"}]
    for stream in (False, True):
        answer = ask(http, CHAT, messages=asked, stream=stream)
        assert answer.status_code == 200
        assert answer.headers["x-mlxd-ignored"] == "messages[0].zz, messages[0].odd_key_"
    assert "x-mlxd-ignored" not in ask(http, CHAT).headers


def test_an_operator_can_have_parameters_ignored(llama_path: Path) -> None:
    softened = {"service_tier": "flex", "store": True, "verbosity": "low", "web_search_options": {}}
    with (
        running(llama_path, flags=["--soften", ", ".join(softened)]) as daemon,
        plain_http.client(daemon.url) as http,
    ):
        assert "ignored (operator)" in daemon.output
        answer = ask(http, CHAT, **softened)
        assert answer.headers["x-mlxd-ignored"] == ", ".join(softened)
        assert answer.json()["service_tier"] == "default"
        told = http.get("/v1/capabilities").json()["data"][0]["endpoints"][CHAT]
        assert {told[name]["support"] for name in softened} == {"ignored (operator)"}
        assert ask(http, CHAT, audio={"voice": "alloy"}).status_code == 400


def text_of(answer: httpx.Response) -> str:
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text
